// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/jit_dump.hpp"

#include <elf.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "harena/base/map_error.hpp"
#include "harena/base/os/inspect.hpp"
#include "harena/base/os/io.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/page_math.hpp"
#include "harena/exec/text_registry.hpp"

namespace harena {

namespace {

struct Header {
    std::uint32_t magic = 0x4a69'5444;
    std::uint32_t version = 1;
    std::uint32_t bytes = sizeof(Header);
    std::uint32_t machine = EM_X86_64;
    std::uint32_t reserved = 0;
    std::uint32_t pid = 0;
    std::uint64_t time = 0;
    std::uint64_t flags = 0;
};
static_assert(sizeof(Header) == 40);

struct CodeLoad {
    std::uint32_t id = 0;
    std::uint32_t bytes = 0;  // with name and code
    std::uint64_t time = 0;
    std::uint32_t pid = 0;
    std::uint32_t tid = 0;
    std::uint64_t address = 0;
    std::uint64_t code_address = 0;
    std::uint64_t code_bytes = 0;
    std::uint64_t index = 0;
};
static_assert(sizeof(CodeLoad) == 56);

}  // namespace

Result<std::shared_ptr<JitDump>> JitDump::of_process(const std::string& folder) {
    static std::weak_ptr<JitDump> current;
    static int owner = 0;
    const auto lock = text_registry::block_forks();  // and with it, other threads; a child finds it free
    const int pid = os::process_id();
    // A child after fork has its parent's.
    if (auto dump = current.lock(); dump && owner == pid) return dump;
    std::shared_ptr<JitDump> dump{new JitDump};
    HARENA_CHECK_OK(dump->start(fmt::format("{}/jit-{}.dump", folder, pid)));
    current = dump;
    owner = pid;
    return dump;
}

Result<void> JitDump::start(const std::string& path) {
    auto file = os::create_own(path);
    if (!file) return os::fail_with(file.error(), fmt::format("cannot create {}", path));
    file_ = std::move(*file);
    Header header;
    header.pid = static_cast<std::uint32_t>(os::process_id());
    header.time = os::monotonic_ns();
    HARENA_CHECK_OK(write(std::as_bytes(std::span{&header, 1})));
    const auto marker = os::mmap(nullptr, k_page_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, file_.get(), 0);
    if (!marker) return os::fail_with(marker.error(), fmt::format("cannot map {}, by which perf knows it", path));
    marker_ = *marker;
    return {};
}

JitDump::~JitDump() {
    if (marker_ != nullptr) (void)os::munmap(marker_, k_page_size);
}

Result<void> JitDump::write(std::span<const std::byte> bytes) {
    HARENA_CHECK_OK(check_file_size(bytes_ + bytes.size(), "the dump of text"));
    while (!bytes.empty()) {
        const auto written = os::write(file_.get(), bytes.data(), bytes.size());
        if (!written && written.error().code == EINTR) continue;
        if (!written) return os::fail_with(written.error(), "cannot write to the dump of text");
        bytes = bytes.subspan(*written);
        bytes_ += *written;
    }
    return {};
}

Result<void> JitDump::add(std::uint64_t address, std::span<const std::byte> code, std::string_view name) {
    std::vector<std::byte> record(sizeof(CodeLoad) + name.size() + 1 + code.size());
    CodeLoad load;
    load.bytes = static_cast<std::uint32_t>(record.size());
    load.pid = static_cast<std::uint32_t>(os::process_id());
    load.tid = static_cast<std::uint32_t>(os::thread_id());
    load.address = load.code_address = address;
    load.code_bytes = code.size();
    const std::lock_guard lock{mutex_};
    load.time = os::monotonic_ns();
    load.index = ++records_;
    std::memcpy(record.data(), &load, sizeof load);
    std::memcpy(record.data() + sizeof load, name.data(), name.size());
    std::memcpy(record.data() + sizeof load + name.size() + 1, code.data(), code.size());
    return write(record);
}

}  // namespace harena
