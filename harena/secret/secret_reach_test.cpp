// SPDX-License-Identifier: Apache-2.0
// Out of reach, tried: each way to a secret that docs/secret.md calls refused, and each that it says cannot be
// prevented. The same pattern in ordinary memory is found by each way, so that none of these can pass by looking wrong.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/vfs.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/file.hpp"
#include "harena/secret/secret_pages.hpp"
#include "harena/secret/test_support.hpp"

namespace harena {
namespace {

using test::Pattern;

constexpr std::size_t k_bytes = 64;

/// What processes tell each other by: whole numbers through a pipe.
class Pipe {
public:
    Pipe() { EXPECT_EQ(::pipe2(ends_.data(), O_CLOEXEC), 0); }
    Pipe(const Pipe&) = delete;
    Pipe& operator=(const Pipe&) = delete;
    ~Pipe() {
        ::close(ends_[0]);
        ::close(ends_[1]);
    }
    void tell(std::uint64_t value) { EXPECT_EQ(::write(ends_[1], &value, sizeof value), ssize_t{sizeof value}); }
    [[nodiscard]] std::uint64_t hear() {
        std::uint64_t value = 0;
        return ::read(ends_[0], &value, sizeof value) == ssize_t{sizeof value} ? value : 0;
    }
    [[nodiscard]] int in() const { return ends_[1]; }

private:
    std::array<int, 2> ends_{-1, -1};
};

struct Found {
    std::size_t hits = 0;        // of the pattern
    std::size_t unreadable = 0;  // mappings of which nothing could be read
    std::uint64_t bytes = 0;     // looked at
};

/// Looks for the pattern in all readable mappings of a process, through /proc/PID/mem, but for [skip, skip + length).
Found scan(pid_t process, const Pattern& pattern, std::uint64_t skip = 0, std::uint64_t length = 0) {
    const std::string folder = fmt::format("/proc/{}/", process);
    std::ifstream maps{folder + "maps"};
    const int memory = ::open((folder + "mem").c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_GE(memory, 0);
    constexpr std::size_t k_piece = 256 * 1024;
    constexpr std::uint64_t k_most_of_a_mapping = (test::k_sanitizer ? 8 : 256) * k_mib;  // of a shadow, no more
    std::vector<std::byte> piece(k_piece);
    Found found;
    for (std::string line; std::getline(maps, line);) {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
        char readable = '-';
        if (std::sscanf(line.c_str(), "%lx-%lx %c", &begin, &end, &readable) != 3 || readable != 'r') continue;
        if (begin >= skip && begin < skip + length) continue;
        bool any = false;
        for (std::uint64_t at = begin; at < std::min(end, begin + k_most_of_a_mapping); at += k_piece) {
            const ssize_t got =
                ::pread(memory, piece.data(), std::min<std::size_t>(k_piece, end - at), static_cast<off_t>(at));
            if (got <= 0) break;
            any = true;
            found.bytes += static_cast<std::uint64_t>(got);
            // The buffer is in a mapping, too: of what was copied from elsewhere, it must not tell again.
            found.hits += pattern.count_in(piece.data(), static_cast<std::size_t>(got));
            std::fill(piece.begin(), piece.end(), std::byte{0});
        }
        if (!any) ++found.unreadable;
    }
    ::close(memory);
    return found;
}

class SecretReach : public test::SecretHeapTest {
protected:
    void SetUp() override {
        SecretHeapTest::SetUp();
        if (IsSkipped()) return;
        secret_ = alloc(k_bytes);
        k_pattern.fill(secret_, k_bytes);
        plain_ = std::make_unique<std::array<std::byte, k_bytes>>();
        k_plain_pattern.fill(plain_->data(), k_bytes);
    }
    [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(secret_); }

    static constexpr Pattern k_pattern{0x5ec7e7};
    static constexpr Pattern k_plain_pattern{0x91a14};
    std::byte* secret_ = nullptr;
    std::unique_ptr<std::array<std::byte, k_bytes>> plain_;
};

TEST_F(SecretReach, no_other_mapping_of_the_process_has_it) {
    EXPECT_GE(scan(::getpid(), k_plain_pattern).hits, 1U) << "the same scan finds what is in ordinary memory";
    const Found found = scan(::getpid(), k_pattern);
    EXPECT_EQ(found.hits, 0U);
    EXPECT_GE(found.unreadable, 1U) << "the secret's own mapping is refused";
    EXPECT_GT(found.bytes, 100'000U);
    EXPECT_TRUE(k_pattern.is_at(secret_, k_bytes)) << "the documented pointer";
}

TEST_F(SecretReach, proc_self_mem_neither_reads_nor_writes_it) {
    const int memory = ::open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    ASSERT_GE(memory, 0);
    std::array<std::byte, k_bytes> copy{};
    EXPECT_EQ(::pread(memory, copy.data(), k_bytes, static_cast<off_t>(address())), -1);
    EXPECT_EQ(::pwrite(memory, copy.data(), k_bytes, static_cast<off_t>(address())), -1);
    const auto plain = static_cast<off_t>(reinterpret_cast<std::uint64_t>(plain_->data()));
    EXPECT_EQ(::pread(memory, copy.data(), k_bytes, plain), ssize_t{k_bytes});
    ::close(memory);
    EXPECT_TRUE(k_pattern.is_at(secret_, k_bytes));
}

TEST_F(SecretReach, process_vm_readv_of_itself_is_refused) {
    std::array<std::byte, k_bytes> copy{};
    const iovec local{.iov_base = copy.data(), .iov_len = k_bytes};
    const iovec remote{.iov_base = secret_, .iov_len = k_bytes};
    EXPECT_EQ(::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0), -1);
    const iovec plain{.iov_base = plain_->data(), .iov_len = k_bytes};
    EXPECT_EQ(::process_vm_readv(::getpid(), &local, 1, &plain, 1, 0), ssize_t{k_bytes});
}

TEST_F(SecretReach, vmsplice_is_refused) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const iovec secret{.iov_base = secret_, .iov_len = k_bytes};
    EXPECT_EQ(::vmsplice(ends[1], &secret, 1, SPLICE_F_NONBLOCK), -1);
    const iovec plain{.iov_base = plain_->data(), .iov_len = k_bytes};
    EXPECT_EQ(::vmsplice(ends[1], &plain, 1, SPLICE_F_NONBLOCK), ssize_t{k_bytes});
    ::close(ends[0]);
    ::close(ends[1]);
}

TEST_F(SecretReach, direct_io_is_refused) {
    const std::string path = testing::TempDir() + fmt::format("harena_direct_{}", ::getpid());
    const int file = ::open(path.c_str(), O_CREAT | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    struct statfs facts{};
    const bool direct = file >= 0 && ::fstatfs(file, &facts) == 0 && facts.f_type != TMPFS_MAGIC;
    void* const plain = std::aligned_alloc(k_page_size, k_page_size);
    std::memset(plain, 1, k_page_size);
    const bool works = direct && ::pwrite(file, plain, k_page_size, 0) == ssize_t{k_page_size};
    std::free(plain);
    const auto secret = heap_->alloc(k_page_size, {.alignment = k_page_size}).value();
    const ssize_t written = works ? ::pwrite(file, secret, k_page_size, 0) : -1;
    const ssize_t read = works ? ::pread(file, secret, k_page_size, 0) : -1;
    ::close(file);
    ::unlink(path.c_str());
    if (!works) GTEST_SKIP() << "no O_DIRECT in " << testing::TempDir();
    EXPECT_EQ(written, -1);
    EXPECT_EQ(read, -1);
}

TEST_F(SecretReach, files_behind_its_mapping_cannot_be_opened) {
    std::ifstream maps{"/proc/self/maps"};
    std::string line;
    while (std::getline(maps, line) && line.find("secretmem") == std::string::npos) continue;
    ASSERT_NE(line.find("secretmem"), std::string::npos);
    const std::string path = "/proc/self/map_files/" + line.substr(0, line.find(' '));
    EXPECT_EQ(::open(path.c_str(), O_RDWR), -1);
}

TEST_F(SecretReach, mapping_is_marked_locked_and_not_to_be_dumped_or_copied) {
    std::ifstream smaps{"/proc/self/smaps"};
    std::string flags;
    bool of_secret = false;
    for (std::string line; std::getline(smaps, line);) {
        if (line.find("secretmem") != std::string::npos) of_secret = true;
        if (of_secret && line.starts_with("VmFlags:")) {
            flags = line;
            break;
        }
    }
    for (const char* const flag : {" lo", " dd", " dc"}) EXPECT_NE(flags.find(flag), std::string::npos) << flags;
}

TEST_F(SecretReach, forked_children_do_not_have_it) {
    const bool held = test::holds_in_child([&] {
        EXPECT_FALSE(test::readable(secret_));
        const Found found = scan(::getpid(), k_pattern);
        EXPECT_EQ(found.hits, 0U);
        EXPECT_GE(scan(::getpid(), k_plain_pattern).hits, 1U);
        EXPECT_EQ(test::count_mappings("secretmem"), 0U);
    });
    EXPECT_TRUE(held);
}

/// A child that has made a secret, told its address and that of ordinary memory with another pattern, and waits.
class SecretOfChild : public test::SecretTest {
protected:
    void SetUp() override {
        SecretTest::SetUp();
        if (IsSkipped()) return;
        child_ = ::fork();
        if (child_ == 0) live();
        secret_ = told_.hear();
        plain_ = told_.hear();
        ASSERT_NE(secret_, 0U);
    }
    void TearDown() override {
        if (child_ <= 0) return;
        ::kill(child_, SIGKILL);
        ::waitpid(child_, nullptr, 0);
    }
    [[noreturn]] void live() {
        const auto heap = SecretHeap::create().value();
        const auto pages = SecretPages::create(PageCount{1}).value();
        auto* const secret = static_cast<std::byte*>(heap->alloc(k_bytes).value());
        k_pattern.fill(secret, k_bytes);
        {
            const SecretWindow window = pages->open().value();
            k_pages_pattern.fill(window.data(), k_bytes);
        }
        alignas(8) static std::array<std::byte, k_bytes> plain;
        k_plain_pattern.fill(plain.data(), k_bytes);
        told_.tell(reinterpret_cast<std::uint64_t>(secret));
        told_.tell(reinterpret_cast<std::uint64_t>(plain.data()));
        while (true) ::pause();
    }
    static constexpr Pattern k_pattern{0xc417d};
    static constexpr Pattern k_plain_pattern{0x91a14};
    static constexpr Pattern k_pages_pattern{0x9a6e5};
    Pipe told_;
    pid_t child_ = -1;
    std::uint64_t secret_ = 0;
    std::uint64_t plain_ = 0;
};

TEST_F(SecretOfChild, is_not_read_by_process_vm_readv_of_the_parent) {
    std::array<std::byte, k_bytes> copy{};
    const iovec local{.iov_base = copy.data(), .iov_len = k_bytes};
    const auto read_at = [&](std::uint64_t at) {
        const iovec remote{.iov_base = reinterpret_cast<void*>(at), .iov_len = k_bytes};
        return ::process_vm_readv(child_, &local, 1, &remote, 1, 0);
    };
    if (read_at(plain_) != ssize_t{k_bytes}) GTEST_SKIP() << "a parent may not read its child here";
    EXPECT_TRUE(k_plain_pattern.is_at(copy.data(), k_bytes));
    EXPECT_EQ(read_at(secret_), -1);
}

TEST_F(SecretOfChild, is_not_found_in_its_proc_mem_by_the_parent) {
    if (::access(fmt::format("/proc/{}/mem", child_).c_str(), R_OK) != 0) GTEST_SKIP() << "/proc/PID/mem is refused";
    EXPECT_EQ(scan(child_, k_pattern).hits, 0U);
    EXPECT_EQ(scan(child_, k_pages_pattern).hits, 0U);
    EXPECT_GE(scan(child_, k_plain_pattern).hits, 1U);
}

TEST_F(SecretOfChild, is_not_peeked_by_a_debugger) {
    if (::ptrace(PTRACE_ATTACH, child_, nullptr, nullptr) != 0) GTEST_SKIP() << "ptrace is refused here";
    ASSERT_EQ(::waitpid(child_, nullptr, 0), child_);
    errno = 0;
    (void)::ptrace(PTRACE_PEEKDATA, child_, reinterpret_cast<void*>(plain_), nullptr);
    EXPECT_EQ(errno, 0);
    errno = 0;
    EXPECT_EQ(::ptrace(PTRACE_PEEKDATA, child_, reinterpret_cast<void*>(secret_), nullptr), -1);
    EXPECT_NE(errno, 0);
    EXPECT_EQ(::ptrace(PTRACE_POKEDATA, child_, reinterpret_cast<void*>(secret_), nullptr), -1);
    (void)::ptrace(PTRACE_DETACH, child_, nullptr, nullptr);
}

TEST_F(SecretOfChild, in_pages_is_taken_by_who_may_take_descriptors_which_nothing_prevents) {
    const long process = ::syscall(SYS_pidfd_open, child_, 0);
    if (process < 0) GTEST_SKIP() << "no pidfd_open here";
    std::size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator{fmt::format("/proc/{}/fd", child_)}) {
        std::error_code error;
        if (std::filesystem::read_symlink(entry.path(), error).string().find("secretmem") == std::string::npos)
            continue;
        ++files;
        const long taken = ::syscall(SYS_pidfd_getfd, process, std::stoi(entry.path().filename()), 0);
        if (taken < 0) {
            ::close(static_cast<int>(process));
            GTEST_SKIP() << "pidfd_getfd is refused here";
        }
        void* const mapped = ::mmap(nullptr, k_page_size, PROT_READ, MAP_SHARED, static_cast<int>(taken), 0);
        ASSERT_NE(mapped, MAP_FAILED);
        EXPECT_TRUE(k_pages_pattern.is_at(static_cast<const std::byte*>(mapped), k_bytes));
        ::munmap(mapped, k_page_size);
        ::close(static_cast<int>(taken));
    }
    ::close(static_cast<int>(process));
    EXPECT_EQ(files, 1U) << "of the pages, and none of the heap";
}

#if defined(__x86_64__)
TEST_F(SecretOfChild, is_written_out_by_code_that_a_debugger_makes_it_run_which_nothing_prevents) {
    if (::ptrace(PTRACE_ATTACH, child_, nullptr, nullptr) != 0) GTEST_SKIP() << "ptrace is refused here";
    ASSERT_EQ(::waitpid(child_, nullptr, 0), child_);
    // Where it is, it finds the instruction of a system call, and in its registers a write of the secret.
    user_regs_struct before{};
    ASSERT_EQ(::ptrace(PTRACE_GETREGS, child_, nullptr, &before), 0);
    auto* const at = reinterpret_cast<void*>(before.rip);
    const long text = ::ptrace(PTRACE_PEEKTEXT, child_, at, nullptr);
    constexpr long k_syscall = 0x050f;
    ASSERT_EQ(::ptrace(PTRACE_POKETEXT, child_, at, reinterpret_cast<void*>((text & ~0xffffL) | k_syscall)), 0);
    user_regs_struct injected = before;
    injected.orig_rax = ~0ULL;  // nothing to be restarted
    injected.rax = SYS_write;
    injected.rdi = static_cast<unsigned long long>(told_.in());
    injected.rsi = secret_;
    injected.rdx = k_bytes;
    ASSERT_EQ(::ptrace(PTRACE_SETREGS, child_, nullptr, &injected), 0);
    ASSERT_EQ(::ptrace(PTRACE_SINGLESTEP, child_, nullptr, nullptr), 0);
    ASSERT_EQ(::waitpid(child_, nullptr, 0), child_);
    ASSERT_EQ(::ptrace(PTRACE_GETREGS, child_, nullptr, &injected), 0);
    ASSERT_EQ(injected.rax, k_bytes);
    for (std::size_t i = 0; i < k_bytes / 8; ++i) EXPECT_EQ(told_.hear(), k_pattern.word(i));
    (void)::ptrace(PTRACE_KILL, child_, nullptr, nullptr);
}
#endif

TEST_F(SecretReach, own_write_of_it_copies_it_which_nothing_prevents) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    std::array<std::byte, k_bytes> copy{};
    EXPECT_EQ(::write(ends[1], secret_, k_bytes), ssize_t{k_bytes});
    EXPECT_EQ(::read(ends[0], copy.data(), k_bytes), ssize_t{k_bytes});
    EXPECT_TRUE(k_pattern.is_at(copy.data(), k_bytes));
    ::close(ends[0]);
    ::close(ends[1]);
}

TEST(SecretOnMlockReach, proc_self_mem_reads_it_which_is_why_it_must_be_allowed) {
    os::FailCall absent{os::Call::memfd_secret, ENOSYS, 0, os::FailCall::Repeat::always};
    const os::ScopedFaultInjector scope{absent};
    const auto heap = SecretHeap::create({.allow_mlock = true}).value();
    constexpr Pattern k_pattern{0x10c4ed};
    auto* const secret = static_cast<std::byte*>(heap->alloc(k_bytes).value());
    k_pattern.fill(secret, k_bytes);
    EXPECT_GE(scan(::getpid(), k_pattern).hits, 1U);
}

std::string core_pattern() {
    const auto file = os::read_file("/proc/sys/kernel/core_pattern");
    std::string text = file ? std::string{reinterpret_cast<const char*>(file->data()), file->size()} : "|";
    while (text.ends_with('\n')) text.pop_back();
    return text;
}

TEST(SecretCoreDump, of_a_crashed_process_has_the_ordinary_memory_and_no_secret) {
    if (!os::try_memfd_secret()) GTEST_SKIP() << "no memfd_secret here";
    if (test::k_sanitizer) GTEST_SKIP() << "a sanitizer's core is too large";
    if (core_pattern().find_first_of("|/@%") != std::string::npos || core_pattern().empty())
        GTEST_SKIP() << "cores go elsewhere: kernel.core_pattern is '" << core_pattern() << "'";
    constexpr Pattern k_pattern{0xc04e};
    constexpr Pattern k_plain_pattern{0x91a15};
    const std::filesystem::path folder =
        std::filesystem::path{testing::TempDir()} / fmt::format("harena_core_{}", ::getpid());
    std::filesystem::create_directory(folder);
    const pid_t child = ::fork();
    if (child == 0) {
        rlimit limit{};
        ::getrlimit(RLIMIT_CORE, &limit);
        limit.rlim_cur = limit.rlim_max;
        if (::setrlimit(RLIMIT_CORE, &limit) != 0 || ::chdir(folder.c_str()) != 0) ::_exit(2);
        const auto heap = SecretHeap::create().value();
        const auto pages = SecretPages::create(PageCount{1}).value();
        const SecretWindow window = pages->open().value();
        k_pattern.fill(static_cast<std::byte*>(heap->alloc(k_bytes).value()), k_bytes);
        k_pattern.fill(window.data(), k_bytes);
        alignas(8) static std::array<std::byte, k_bytes> plain;
        k_plain_pattern.fill(plain.data(), k_bytes);
        std::abort();
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    std::size_t cores = 0;
    for (const auto& entry : std::filesystem::directory_iterator{folder}) {
        const auto core = os::read_file(entry.path().string());
        ASSERT_TRUE(core);
        ++cores;
        EXPECT_EQ(k_pattern.count_in(core->data(), core->size()), 0U);
        EXPECT_GE(k_plain_pattern.count_in(core->data(), core->size()), 1U);
    }
    std::filesystem::remove_all(folder);
    if (cores == 0) GTEST_SKIP() << "this system writes no core (ulimit -H -c)";
    EXPECT_TRUE(WCOREDUMP(status));
}

}  // namespace
}  // namespace harena
