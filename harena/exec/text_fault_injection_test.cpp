// SPDX-License-Identifier: Apache-2.0
// Every system call of the layer fails in turn, at every place where it is made, and so does memory: an error that says
// so, nothing lost, and a space that works afterwards.
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <type_traits>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/process.hpp"
#include "harena/exec/test_support.hpp"

namespace {

/// Which allocation of this thread fails, counted from 1 on in layer code; 0: none does.
thread_local std::uint64_t failing_allocation = 0;
thread_local std::uint64_t allocations = 0;
thread_local bool in_layer = false;

}  // namespace

// All that layer code uses, apart from arrays of zeros; the compiler shall not see that they are malloc and free.
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    if (in_layer && ++allocations == failing_allocation) return nullptr;
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
using test::all_traps;
using test::returning;

/// A life of a space in which every part of the layer is used. What cannot be had is not.
class Life {
public:
    explicit Life(bool patched_text_is_restored) : restores_{patched_text_is_restored} { test::catch_traps(); }

    void run() {
        auto near = call([&] { return TextSpace::create({.max_bytes = 2 * k_mib, .near_program = true}); });
        if (near) (void)call([&] { return (*near)->text_alloc(16); });
        near = fail(ECANCELED, "not needed any more");
        auto made = call([&] {
            return TextSpace::create(
                {.max_bytes = 32 * k_mib, .keep_free = 0, .symbols = {.perf_map = true, .gdb = true}});
        });
        if (!made) return;
        space_ = *std::move(made);
        void* const small = alloc(6, "small");
        void* const large = alloc(5 * k_mib, {});
        void* const patched = alloc(16, "patched");
        poke(small, 1);
        poke(large, 2);
        const bool poked = poke(patched, 3);
        const std::array<std::uint64_t, 3> sizes{100, 3000, 7000};
        std::array<void*, 3> batch{};
        if (call([&] { return space_->text_alloc_batch(sizes, batch); }))
            for (void* const text : batch) live_[text] = false;
        else
            batch = {};
        if (batch[0] != nullptr) {
            const auto code = returning(4);
            (void)call([&] {
                return space_->text_poke_batch(std::array{TextPoke{.dest = batch[0], .bytes = code},
                                                          TextPoke{.dest = batch[1], .bytes = code},
                                                          TextPoke{.dest = batch[2], .bytes = code}});
            });
        }
        if (poked) {
            const auto code = returning(5);
            const bool done = call([&] { return space_->text_patch(patched, std::span{code}.first(5)); }).has_value();
            if (done || restores_) {
                EXPECT_EQ(test::run(patched), done ? 5U : 3U);
            }
        }
        {
            const auto inside = call([&] { return space_->enter(); });
            if (small != nullptr) retire(small);
        }
        free(large);
        if (batch[0] != nullptr &&
            call([&] { return space_->text_free_batch(std::array<const void*, 2>{batch[0], batch[1]}); })) {
            live_.erase(batch[0]);
            live_.erase(batch[1]);
        }
        if (patched != nullptr) retire(patched);
        (void)call([&] { return space_->reclaim(); });
        (void)call([&] { return space_->trim(); });
    }

    /// With no call failing any more: all that is left can go, and then all is there to be had.
    void expect_whole() {
        if (!space_) return;
        EXPECT_TRUE(test::ok(space_->reclaim()));
        EXPECT_EQ(space_->statistics().pieces, live_.size());
        for (const auto& [text, is_retired] : live_) EXPECT_TRUE(test::ok(space_->text_free(text)));
        EXPECT_EQ(space_->statistics().pieces, 0U);
        EXPECT_EQ(space_->statistics().used_bytes, 0U);
        ASSERT_TRUE(test::ok(space_->trim()));
        EXPECT_EQ(space_->statistics().blocks, 0U);
        for (std::uint64_t at = 0; at < space_->bytes(); at += k_text_block)
            EXPECT_FALSE(test::readable(space_->base() + at));
        void* const all = space_->text_alloc(32 * k_mib).value();
        EXPECT_TRUE(all_traps(all, 32 * k_mib));
        EXPECT_FALSE(test::writable(all));
    }
    [[nodiscard]] bool saw_failure() const { return !errors_.empty() || space_->statistics().symbol_failures > 0; }
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
    void* alloc(std::uint64_t bytes, std::string_view name) {
        const auto text = call([&] { return space_->text_alloc(bytes, {.name = name}); });
        if (!text) return nullptr;
        EXPECT_TRUE(all_traps(*text, bytes));
        live_[*text] = false;
        return *text;
    }
    bool poke(void* text, std::uint32_t number) {
        if (text == nullptr) return false;
        const auto code = returning(number);
        return call([&] { return space_->text_poke(text, code); }).has_value() && test::run(text) == number;
    }
    void free(void* text) {
        if (text != nullptr && call([&] { return space_->text_free(text); })) live_.erase(text);
    }
    void retire(void* text) {
        if (call([&] { return space_->text_retire(text); })) live_.erase(text);
    }

    bool restores_;
    std::unique_ptr<TextSpace> space_;
    std::map<void*, bool> live_;
    std::vector<Error> errors_;
};

struct Failing {
    Call call;
    int error;
    bool tolerated;  // whether the layer can do without
    const char* name;
};

class TextLayerFails : public testing::TestWithParam<Failing> {
protected:
    ~TextLayerFails() override {
        std::error_code error;
        std::filesystem::remove(fmt::format("/tmp/perf-{}.map", os::process_id()), error);
    }
};
INSTANTIATE_TEST_SUITE_P(
    Calls, TextLayerFails,
    testing::Values(Failing{Call::mmap, ENOMEM, false, "mmap"}, Failing{Call::madvise, ENOMEM, false, "madvise"},
                    Failing{Call::memfd_create, EMFILE, false, "memfd_create"},
                    Failing{Call::ftruncate, EFBIG, false, "ftruncate"},
                    Failing{Call::add_seals, EPERM, false, "add_seals"},
                    Failing{Call::fallocate, EIO, true, "fallocate"},
                    Failing{Call::getrlimit, EFAULT, true, "getrlimit"}, Failing{Call::pwrite, EIO, false, "pwrite"},
                    Failing{Call::membarrier, EPERM, false, "membarrier"}, Failing{Call::open, EMFILE, false, "open"},
                    Failing{Call::stat, EIO, false, "stat"}, Failing{Call::write, ENOSPC, false, "write"}),
    [](const auto& parameter) { return parameter.param.name; });

TEST_P(TextLayerFails, with_an_error_and_loses_nothing) {
    const Failing& failing = GetParam();
    {
        Life first{true};  // what is done once for the process is done
        first.run();
        ASSERT_TRUE(first.errors().empty()) << first.errors()[0].message();
        first.expect_whole();
    }
    for (const auto repeat : {FailCall::Repeat::once, FailCall::Repeat::always}) {
        const bool once = repeat == FailCall::Repeat::once;
        const std::size_t descriptors_before = test::open_descriptors();
        std::uint64_t places = 0;
        for (bool made = true; made; ++places) {
            SCOPED_TRACE(fmt::format("place {}, {}", places, once ? "once" : "always"));
            FailCall injector{failing.call, failing.error, places, repeat};
            {
                Life life{once};
                {
                    const ScopedFaultInjector scope{injector};
                    life.run();
                }
                made = injector.seen() > places;
                // A call that fails once, or for the last time, may be made up for by another way to the same end.
                if (made && !failing.tolerated && !once && places == 0) {
                    EXPECT_TRUE(life.saw_failure());
                }
                EXPECT_TRUE(made || life.errors().empty());
                for (const Error& error : life.errors()) EXPECT_GT(error.message().size(), 20U);
                life.expect_whole();
            }
            EXPECT_EQ(test::open_descriptors(), descriptors_before);
            if (HasFailure()) return;
        }
        EXPECT_GT(places, 1U) << "the call is made at all";
    }
}

TEST(TextLayerWithoutMemory, of_its_own_has_ENOMEM_and_loses_nothing) {
    std::uint64_t places = 1;
    for (bool failed = true; failed; ++places) {
        SCOPED_TRACE(places);
        Life life{true};
        allocations = 0;
        failing_allocation = places;
        EXPECT_NO_THROW(life.run());
        in_layer = false;
        failing_allocation = 0;
        failed = allocations >= places;
        for (const Error& error : life.errors()) EXPECT_EQ(error.code(), ENOMEM) << error.message();
        life.expect_whole();
        if (HasFailure()) return;
    }
    EXPECT_GT(places, 20U);
    std::error_code error;
    std::filesystem::remove(fmt::format("/tmp/perf-{}.map", os::process_id()), error);
}

}  // namespace
}  // namespace harena
