// SPDX-License-Identifier: Apache-2.0
// Every system call of the layer fails in turn, at every place where it is made: an error that says so, nothing lost,
// and a space that works afterwards.
#include <cerrno>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>

#include "harena/base/os/fault_injection.hpp"
#include "harena/vm/test_support.hpp"

namespace {

/// Which allocation of this thread fails, counted from 1 on in layer code; 0: none does.
thread_local std::uint64_t failing_allocation = 0;
thread_local bool and_all_later_ones = false;
thread_local std::uint64_t allocations = 0;
thread_local bool in_layer = false;

}  // namespace

// All that layer code uses, apart from arrays; the compiler shall not see that they are malloc and free.
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    if (in_layer && ++allocations >= failing_allocation && failing_allocation != 0)
        if (allocations == failing_allocation || and_all_later_ones) return nullptr;
    return std::malloc(bytes == 0 ? 1 : bytes);
}
[[gnu::noinline]] void* operator new(std::size_t bytes) {
    if (void* const memory = operator new(bytes, std::nothrow)) return memory;
    throw std::bad_alloc{};
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;

/// A life of a space in which every part of the layer is used. What cannot be had is not.
class Life {
public:
    Life() {
        auto pool = PagePool::create({.capacity = PageCount{6 * k_pageblock_pages}, .collapse = false, .nodes = 1});
        pool_ = *std::move(pool);
        block_ = pool_->alloc_pages(Order{6}).value();
        hidden_ = pool_->unmapped().unmapped_pages_alloc(Order{2}).value();
        for (std::uint32_t i = 0; i < 32; ++i) scattered_.push_back(pool_->page(pool_->pfn(block_) + 2 * i));
        for (std::uint32_t i = 0; i < 4; ++i) hidden_pages_.push_back(pool_->page(pool_->pfn(hidden_) + i));
    }
    ~Life() {
        space_.reset();
        EXPECT_TRUE(pool_->free_pages(block_, Order{6}));
        EXPECT_TRUE(pool_->free_pages(hidden_, Order{2}));
        EXPECT_EQ(pool_->statistics().allocated, PageCount{0});
    }
    Life(const Life&) = delete;
    Life& operator=(const Life&) = delete;

    void run() {
        auto made = call([&] { return VmSpace::create({.bytes = 64 * k_mib, .pool = pool_.get()}); });
        if (!made) return;
        space_ = *std::move(made);
        const auto plain = call([&] { return space_->vmalloc(100 * k_page_size); });
        const auto zeroed = call([&] { return space_->vzalloc(3 * k_page_size, {.unmapped = true}); });
        constexpr std::array<std::byte, 5000> k_contents{};
        const auto sealed = call([&] { return space_->vmalloc_sealed(k_contents); });
        const auto mapped = call([&] { return space_->vmap(std::span{scattered_}.first(5)); });
        const auto hidden = call([&] { return space_->vmap(hidden_pages_); });
        const auto device = call([&] { return space_->ioremap(pool_->fd(), 0, k_page_size, VmProtection::read); });
        const auto moment = call([&] { return space_->vm_map_ram(std::span{scattered_}.first(3)); });
        const auto second = call([&] { return space_->vm_map_ram(std::span{scattered_}.first(2)); });
        const auto area = call([&] { return space_->get_vm_area(16 * k_page_size, VmKind::sparse); });
        if (area) use_sparse(**area);
        std::array<std::byte, 3 * k_page_size> copy;
        if (plain) (void)call([&] { return space_->read(copy.data(), *plain, copy.size()); });
        if (moment) (void)call([&] { return space_->vm_unmap_ram(*moment, 3); });
        if (plain) (void)call([&] { return space_->vfree(*plain); });
        if (zeroed) (void)call([&] { return space_->vfree(*zeroed); });
        if (sealed) (void)call([&] { return space_->vfree(*sealed); });
        if (mapped) (void)call([&] { return space_->vunmap(*mapped); });
        if (hidden) (void)call([&] { return space_->vunmap(*hidden); });
        if (device) (void)call([&] { return space_->iounmap(*device); });
        (void)call([&] { return space_->purge(); });
        if (second) (void)call([&] { return space_->vm_unmap_ram(*second, 2); });
        if (area) (void)call([&] { return space_->free_vm_area(*area); });
        (void)call([&] { return space_->purge(); });
    }

    /// With no call failing any more: all that is left can go, and then all is there to be had.
    void expect_whole() {
        if (!space_) return;
        const std::vector<VmAreaInfo> areas = space_->areas().value();
        for (const VmAreaInfo& info : areas) {
            if (info.unpurged || info.kind == VmKind::ram) continue;
            EXPECT_TRUE(test::ok(space_->remove_vm_area(info.begin)));
        }
        EXPECT_TRUE(test::ok(space_->purge()));
        const VmStatistics left = space_->statistics();
        EXPECT_EQ(left.areas, 0U);
        EXPECT_EQ(left.vmas, 1U);
        EXPECT_EQ(left.unpurged, 0U);
        EXPECT_EQ(left.largest_free_bytes, space_->bytes());
        EXPECT_EQ(pool_->statistics().allocated, PageCount{64 + 4});
        void* const all = space_->vmalloc(1000 * k_page_size).value();
        EXPECT_EQ(all, space_->base());
        test::scribble(static_cast<std::byte*>(all), 1000 * k_page_size);
        EXPECT_TRUE(space_->vfree(all));
        EXPECT_TRUE(space_->purge());
        EXPECT_FALSE(test::readable(all));
    }

    [[nodiscard]] bool saw_failure() const { return !errors_.empty() || space_->statistics().purge_failures > 0; }
    [[nodiscard]] const std::vector<Error>& errors() const { return errors_; }

private:
    /// An exception that crosses the API ends the test.
    template <typename LayerCall>
    std::invoke_result_t<LayerCall> call(const LayerCall& layer_call) {
        in_layer = true;
        auto result = layer_call();
        in_layer = false;
        if (!result) errors_.push_back(result.error());
        return result;
    }
    /// Each call leaves the area as it was, or does what it says.
    void use_sparse(VmArea& area) {
        std::string expected(16, '.');
        const auto seen = [&] {
            std::string text;
            for (std::uint64_t i = 0; i < 16; ++i) text += test::readable(area.begin() + i * k_page_size) ? 'x' : '.';
            return text;
        };
        const auto step = [&](std::uint64_t first, std::uint64_t count, bool map) {
            std::byte* const begin = area.begin() + first * k_page_size;
            std::byte* const end = begin + count * k_page_size;
            const auto pages = std::span{scattered_}.subspan(first, count);
            const auto result = call([&] {
                return map ? space_->map_pages(&area, begin, end, pages) : space_->unmap_pages(&area, begin, end);
            });
            const bool done = result.has_value();
            if (done) expected.replace(first, count, std::string(count, map ? 'x' : '.'));
            EXPECT_EQ(seen(), expected);
            return done;
        };
        const bool four = step(3, 4, true);
        (void)step(9, 3, true);
        (void)step(4, 1, false);
        if (four && expected[4] == '.') (void)step(4, 1, true);
        (void)step(0, 6, false);
    }

    std::unique_ptr<PagePool> pool_;
    Page* block_ = nullptr;
    Page* hidden_ = nullptr;
    std::vector<Page*> scattered_;
    std::vector<Page*> hidden_pages_;
    std::unique_ptr<VmSpace> space_;
    std::vector<Error> errors_;
};

struct Failing {
    Call call;
    int error;
    bool tolerated;  // whether the layer can do without
    const char* name;
};

class VmLayerFails : public testing::TestWithParam<Failing> {};
INSTANTIATE_TEST_SUITE_P(
    Calls, VmLayerFails,
    testing::Values(Failing{Call::mmap, ENOMEM, false, "mmap"}, Failing{Call::mremap, ENOMEM, false, "mremap"},
                    Failing{Call::stat, ENOMEM, false, "stat"}, Failing{Call::mprotect, ENOMEM, true, "mprotect"},
                    Failing{Call::madvise, ENOMEM, true, "madvise"},
                    Failing{Call::memfd_create, EMFILE, false, "memfd_create"},
                    Failing{Call::ftruncate, EFBIG, false, "ftruncate"},
                    Failing{Call::add_seals, EPERM, false, "add_seals"},
                    Failing{Call::getrlimit, EFAULT, true, "getrlimit"}, Failing{Call::pwrite, EIO, false, "pwrite"},
                    Failing{Call::read, EIO, false, "read"}),
    [](const auto& parameter) { return parameter.param.name; });

TEST_P(VmLayerFails, with_an_error_and_loses_nothing) {
    const Failing& failing = GetParam();
    {
        Life first;  // what is done once for the process is done
        first.run();
        ASSERT_TRUE(first.errors().empty()) << first.errors()[0].message();
        first.expect_whole();
    }
    for (const auto repeat : {FailCall::Repeat::once, FailCall::Repeat::always}) {
        const std::size_t descriptors_before = test::open_descriptors();
        std::uint64_t places = 0;
        for (bool made = true; made; ++places) {
            SCOPED_TRACE(fmt::format("place {}, {}", places, repeat == FailCall::Repeat::once ? "once" : "always"));
            FailCall injector{failing.call, failing.error, places, repeat};
            {
                Life life;
                {
                    const ScopedFaultInjector scope{injector};
                    life.run();
                }
                made = injector.seen() > places;
                // A call that fails once may be made up for by another way to the same end.
                if (made && !failing.tolerated && repeat == FailCall::Repeat::always) {
                    EXPECT_TRUE(life.saw_failure());
                }
                if (!made) {
                    EXPECT_TRUE(life.errors().empty()) << life.errors()[0].message();
                }
                for (const Error& error : life.errors()) EXPECT_GT(error.message().size(), 20U);
                life.expect_whole();
            }
            EXPECT_EQ(test::open_descriptors(), descriptors_before);
            if (HasFailure()) return;
        }
        EXPECT_GT(places, 1U) << "the call is made at all";
    }
}

class VmSparseMemory : public test::VmTest {};

TEST_F(VmSparseMemory, is_made_with_the_area_and_mapping_and_unmapping_need_none) {
    const auto pages = take_pages(16);
    VmArea* const area = sparse(64);
    allocations = 0;
    in_layer = true;
    for (std::uint64_t first = 0; first < 48; ++first) {
        const Result<void> mapped =
            space_->map_pages(area, plus(area->begin(), first), plus(area->begin(), first + 16), pages);
        const Result<void> gone = space_->unmap_pages(area, area->begin(), plus(area->begin(), 64));
        if (!mapped || !gone) break;
    }
    in_layer = false;
    EXPECT_EQ(allocations, 0U);
    EXPECT_EQ(space_->areas().value().at(0).pages, 0U);
    give_pages(pages);
}

TEST(VmLayer, index_of_whole_slots_takes_no_memory) {
    constexpr std::uint64_t k_gib_pages = 1U << 18;
    AreaIndex index{8 * k_gib_pages};
    const auto tables = [&](std::uint64_t begin, std::uint64_t end) {
        allocations = 0;
        in_layer = true;
        const bool prepared = index.prepare(VmPage{begin}, VmPage{end}).has_value();
        in_layer = false;
        EXPECT_TRUE(prepared);
        return allocations;
    };
    EXPECT_EQ(tables(k_gib_pages, 3 * k_gib_pages), 0U);
    EXPECT_GE(tables(4 * k_gib_pages, 4 * k_gib_pages + 1024), 1U);  // one, and the list of them
    EXPECT_EQ(tables(4 * k_gib_pages + 512, 4 * k_gib_pages + 1024), 0U);
    EXPECT_GE(tables(4 * k_gib_pages, 4 * k_gib_pages + 513), 1U);
}

TEST(VmLayer, areas_that_there_was_no_memory_for_leave_their_numbers) {
    const auto space = VmSpace::create({.bytes = 64 * k_mib, .max_areas = 3}).value();
    for (std::uint64_t place = 1;; ++place) {
        allocations = 0;
        failing_allocation = place;
        in_layer = true;
        const auto area = space->get_vm_area(16 * k_page_size, VmKind::sparse);
        in_layer = false;
        failing_allocation = 0;
        if (area) break;
        EXPECT_TRUE(test::refused(area, ENOMEM, "no memory"));
    }
    EXPECT_TRUE(test::ok(space->get_vm_area(1, VmKind::map)));
    EXPECT_TRUE(test::ok(space->get_vm_area(1, VmKind::map)));
}

class VmAbandoned : public test::VmTest {};

TEST_F(VmAbandoned, areas_are_nobodys_even_if_what_has_no_other_address_cannot_be_unmapped) {
    Page* const hidden = pool_->unmapped().unmapped_pages_alloc(Order{2}).value();
    const std::array<Page*, 2> scattered{hidden, pool_->page(pool_->pfn(hidden) + 2)};
    {
        FailCall failing{Call::mmap, ENOMEM, 1, FailCall::Repeat::always};
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(test::refused(space_->vmap(scattered), ENOMEM, "vm.max_map_count"));
    }
    EXPECT_EQ(space_->statistics().areas, 0U);
    EXPECT_EQ(space_->statistics().unpurged, 1U);
    ASSERT_TRUE(space_->purge());
    EXPECT_EQ(space_->statistics().vmas, 1U);
    EXPECT_EQ(space_->statistics().free_bytes, space_->bytes());
    ASSERT_TRUE(pool_->free_pages(hidden, Order{2}));
}

/// Errors are made without memory too, those of system calls among them: nothing is thrown, and nothing lost on the
/// way.
class VmLayerWithoutMemory : public testing::TestWithParam<std::tuple<bool, bool>> {};
INSTANTIATE_TEST_SUITE_P(OnceOrForGood, VmLayerWithoutMemory, testing::Combine(testing::Bool(), testing::Bool()));

TEST_P(VmLayerWithoutMemory, of_its_own_has_ENOMEM_and_loses_nothing) {
    const auto& [for_good, without_mappings] = GetParam();
    std::uint64_t places = 1;
    for (bool failed = true; failed; ++places) {
        SCOPED_TRACE(places);
        Life life;
        FailCall mappings{Call::mmap, ENOMEM, 20, FailCall::Repeat::always};
        std::optional<ScopedFaultInjector> injected;
        if (without_mappings) injected.emplace(mappings);
        allocations = 0;
        and_all_later_ones = for_good;
        failing_allocation = places;
        EXPECT_NO_THROW(life.run());
        in_layer = false;
        failing_allocation = 0;
        failed = allocations >= places;
        injected.reset();
        for (const Error& error : life.errors()) EXPECT_EQ(error.code(), ENOMEM) << error.message();
        life.expect_whole();
        if (HasFailure()) return;
    }
    EXPECT_GT(places, 20U);
}

}  // namespace
}  // namespace harena
