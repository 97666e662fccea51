// SPDX-License-Identifier: Apache-2.0
// Every system call of the layer fails in turn, at every place where it is made, and so does every allocation of
// ordinary memory: an error that says so, nothing lost, and memory that works afterwards.
#include <cerrno>
#include <cstdlib>
#include <new>
#include <string>
#include <tuple>

#include "harena/base/os/fault_injection.hpp"
#include "harena/secret/secret_pages.hpp"
#include "harena/secret/test_support.hpp"

namespace {

/// Which allocation of this thread fails, counted from 1 on in layer code; 0: none does.
thread_local std::uint64_t failing_allocation = 0;
thread_local bool and_all_later_ones = false;
thread_local std::uint64_t allocations = 0;
thread_local bool in_layer = false;

bool fails_now() {
    if (!in_layer || ++allocations < failing_allocation || failing_allocation == 0) return false;
    return allocations == failing_allocation || and_all_later_ones;
}

}  // namespace

// All that layer code uses, apart from arrays of plain numbers; the compiler shall not see that they are malloc and
// free.
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return fails_now() ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
}
[[gnu::noinline]] void* operator new(std::size_t bytes) {
    if (void* const memory = operator new(bytes, std::nothrow)) return memory;
    throw std::bad_alloc{};
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
    const auto unit = static_cast<std::size_t>(alignment);
    if (!fails_now())
        if (void* const memory = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit)) return memory;
    throw std::bad_alloc{};
}
[[gnu::noinline]] void* operator new[](std::size_t bytes, std::align_val_t alignment) {
    return operator new(bytes, alignment);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::Pattern;

/// A life of a heap and of pages in which every part of the layer is used. What cannot be had is not.
class Life {
public:
    explicit Life(bool allow_mlock) : allow_mlock_{allow_mlock} {}

    void run() {
        if (auto made = call([&] { return SecretHeap::create({.capacity = 64 * k_mib, .allow_mlock = allow_mlock_}); }))
            heap_ = *std::move(made);
        if (heap_) use_heap();
        auto pages = call([&] { return SecretPages::create(PageCount{2}, {.allow_mlock = allow_mlock_}); });
        if (pages) pages_ = *std::move(pages);
        if (pages_) use_pages();
    }

    /// With no call failing any more: all is there to be had, and then all can go.
    void expect_whole() {
        if (heap_) {
            (void)heap_->trim();
            EXPECT_EQ(heap_->statistics().live, 0U);
            void* const guarded = heap_->alloc(1, {.guarded = true}).value();
            void* const some = heap_->alloc(32).value();
            (void)heap_->free(guarded);
            (void)heap_->free(some);
            (void)heap_->trim();
            EXPECT_EQ(heap_->statistics().locked_bytes, 0U);
            EXPECT_EQ(heap_->statistics().blocks, 0U);
            EXPECT_EQ(heap_->statistics().vmas, 1U);
        }
        if (pages_) {
            EXPECT_EQ(pages_->windows(), 0U);
            std::byte* at = nullptr;
            {
                const SecretWindow window = pages_->open().value();
                at = window.data();
                EXPECT_TRUE(test::writable(at));
            }
            EXPECT_FALSE(test::readable(at));
        }
        heap_.reset();
        pages_.reset();
        EXPECT_EQ(test::count_mappings("secretmem"), 0U);
    }
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
    void use_heap() {
        std::vector<std::pair<std::byte*, std::size_t>> live;
        const auto keep = [&](std::size_t bytes, const SecretAllocOptions& options) {
            const auto secret = call([&] { return heap_->alloc(bytes, options); });
            if (!secret) return;
            auto* const at = static_cast<std::byte*>(*secret);
            EXPECT_TRUE(test::is_zero(at, bytes));
            Pattern{bytes}.fill(at, bytes);
            live.emplace_back(at, bytes);
        };
        for (const std::size_t bytes : {1U, 32U, 33U, 2000U, 2001U, 9000U, 100'000U}) keep(bytes, {});
        keep(5, {.alignment = 64});
        keep(32, {.guarded = true});
        for (int i = 0; i < 8; ++i) keep(50'000, {});  // a second block
        EXPECT_EQ(heap_->statistics().live, live.size());
        for (const auto& [at, bytes] : live) {
            EXPECT_TRUE(Pattern{bytes}.is_at(at, bytes));
            EXPECT_TRUE(call([&] { return heap_->free(at); }));
        }
        (void)heap_->trim();
    }
    void use_pages() {
        for (int i = 0; i < 2; ++i) {
            auto window = call([&] { return pages_->open(); });
            if (!window) continue;
            EXPECT_TRUE(test::writable(window->data()));
            (void)call([&] { return window->close(); });
        }
    }

    bool allow_mlock_;
    std::unique_ptr<SecretHeap> heap_;
    std::unique_ptr<SecretPages> pages_;
    std::vector<Error> errors_;
};

struct Failing {
    Call call;
    int error;
    bool tolerated;  // whether the layer can do without
    bool on_mlock;   // made where memfd_secret is absent
    const char* name;
};

class SecretLayerFails : public testing::TestWithParam<Failing> {};
INSTANTIATE_TEST_SUITE_P(Calls, SecretLayerFails,
                         testing::Values(Failing{Call::mmap, ENOMEM, false, false, "mmap"},
                                         Failing{Call::madvise, ENOMEM, false, false, "madvise"},
                                         Failing{Call::memfd_secret, EMFILE, false, false, "memfd_secret"},
                                         Failing{Call::ftruncate, EINVAL, false, false, "ftruncate"},
                                         Failing{Call::getrandom, EFAULT, false, false, "getrandom"},
                                         Failing{Call::stat, ENOMEM, false, false, "stat"},
                                         Failing{Call::membarrier, EPERM, true, false, "membarrier"},
                                         Failing{Call::mmap, EAGAIN, false, true, "mmap_on_mlock"},
                                         Failing{Call::madvise, ENOMEM, false, true, "madvise_on_mlock"},
                                         Failing{Call::mprotect, ENOMEM, false, true, "mprotect_on_mlock"},
                                         Failing{Call::mlock, EPERM, false, true, "mlock_on_mlock"},
                                         Failing{Call::getrandom, ENOSYS, false, true, "getrandom_on_mlock"}),
                         [](const auto& parameter) { return parameter.param.name; });

/// Fails as `FailCall` does; and, if asked to, has no memfd_secret.
class FailCallOnMlock final : public os::FaultInjector {
public:
    FailCallOnMlock(const Failing& failing, std::uint64_t skip, FailCall::Repeat repeat)
        : on_mlock_{failing.on_mlock}, failing_{failing.call, failing.error, skip, repeat} {}
    int on_call(Call call) noexcept override {
        if (on_mlock_ && call == Call::memfd_secret) return ENOSYS;
        return failing_.on_call(call);
    }
    [[nodiscard]] std::uint64_t seen() const noexcept { return failing_.seen(); }

private:
    bool on_mlock_;
    FailCall failing_;
};

TEST_P(SecretLayerFails, with_an_error_and_loses_nothing) {
    const Failing& failing = GetParam();
    if (!failing.on_mlock && !os::try_memfd_secret()) GTEST_SKIP() << "no memfd_secret here";
    {
        Life first{true};  // what is done once for the process is done
        first.run();
        first.expect_whole();
        ASSERT_TRUE(first.errors().empty()) << first.errors()[0].message();
    }
    for (const auto repeat : {FailCall::Repeat::once, FailCall::Repeat::always}) {
        const std::size_t descriptors_before = test::open_descriptors();
        std::uint64_t places = 0;
        for (bool made = true; made; ++places) {
            SCOPED_TRACE(fmt::format("place {}, {}", places, repeat == FailCall::Repeat::once ? "once" : "always"));
            Life life{failing.on_mlock};
            FailCallOnMlock injector{failing, places, repeat};
            {
                const ScopedFaultInjector scope{injector};
                life.run();
            }
            made = injector.seen() > places;
            if (!made) {
                EXPECT_TRUE(life.errors().empty()) << life.errors()[0].message();
            }
            // A call that fails once may be made up for by another way to the same end, or be of a free.
            if (made && places == 0 && !failing.tolerated && repeat == FailCall::Repeat::always) {
                EXPECT_FALSE(life.errors().empty());
            }
            for (const Error& error : life.errors()) EXPECT_GT(error.message().size(), 20U) << error.message();
            {
                // Expectations are about memory that has no memfd_secret still.
                FailCall absent{Call::memfd_secret, ENOSYS, 0, FailCall::Repeat::always};
                std::optional<ScopedFaultInjector> scope;
                if (failing.on_mlock) scope.emplace(absent);
                life.expect_whole();
            }
            EXPECT_EQ(test::open_descriptors(), descriptors_before);
            if (HasFailure()) return;
        }
        EXPECT_GT(places, 1U) << "the call is made at all";
    }
}

class SecretLayerWithoutMemory : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(OnceOrForGood, SecretLayerWithoutMemory, testing::Bool());

TEST_P(SecretLayerWithoutMemory, of_its_own_has_ENOMEM_and_loses_nothing) {
    if (!os::try_memfd_secret()) GTEST_SKIP() << "no memfd_secret here";
    std::uint64_t places = 1;
    for (bool failed = true; failed; ++places) {
        SCOPED_TRACE(places);
        Life life{false};
        allocations = 0;
        and_all_later_ones = GetParam();
        failing_allocation = places;
        EXPECT_NO_THROW(life.run());
        in_layer = false;
        failing_allocation = 0;
        failed = allocations >= places;
        for (const Error& error : life.errors()) EXPECT_EQ(error.code(), ENOMEM) << error.message();
        life.expect_whole();
        if (HasFailure()) return;
    }
    EXPECT_GT(places, 15U);
}

TEST(SecretFrees, need_no_memory_and_no_system_call_that_may_fail) {
    if (!os::try_memfd_secret()) GTEST_SKIP() << "no memfd_secret here";
    const auto heap = SecretHeap::create().value();
    std::vector<std::byte*> live;
    for (std::size_t i = 1; i <= 3000; ++i) live.push_back(static_cast<std::byte*>(heap->alloc(i).value()));
    live.push_back(static_cast<std::byte*>(heap->alloc(1, {.guarded = true}).value()));
    class FailAll final : public os::FaultInjector {
        int on_call(Call) noexcept override { return ENOMEM; }
    } all;
    allocations = 0;
    {
        const ScopedFaultInjector scope{all};
        in_layer = true;
        failing_allocation = 1;
        and_all_later_ones = true;
        for (std::byte* const at : live) (void)heap->free(at);
        failing_allocation = 0;
        in_layer = false;
    }
    EXPECT_EQ(allocations, 0U);
    EXPECT_EQ(heap->statistics().live, 0U);
    EXPECT_TRUE(test::is_zero(live.back(), 1)) << "the kernel did not unmap it, and it is zero";
    void* const next = heap->alloc(1, {.guarded = true}).value();
    (void)heap->free(next);
    EXPECT_FALSE(test::readable(live.back())) << "it was tried again";
}

}  // namespace
}  // namespace harena
