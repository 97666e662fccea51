// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"

namespace harena {

/// The file from which `perf inject --jit` learns names and contents of text: FOLDER/jit-PID.dump, one a process. For
/// text in a memfd it takes this one: `perf report` asks a perf map for anonymous memory only. Thread-safe. Source:
/// Linux, tools/perf/Documentation/jitdump-specification.txt.
class JitDump {
public:
    /// The one of this process, made if there is none; `folder` is then where. perf knows the file by its mapping: the
    /// folder must allow execution. Errors: EEXIST (a file of that name is there), those of open and mmap.
    [[nodiscard]] static Result<std::shared_ptr<JitDump>> of_process(const std::string& folder);
    JitDump(const JitDump&) = delete;
    JitDump& operator=(const JitDump&) = delete;
    ~JitDump();

    /// Text at `address` that has been written. Errors: EFBIG (RLIMIT_FSIZE), those of write.
    Result<void> add(std::uint64_t address, std::span<const std::byte> code, std::string_view name);

private:
    JitDump() = default;
    Result<void> start(const std::string& path);
    Result<void> write(std::span<const std::byte> bytes);

    std::mutex mutex_;  // protects all below
    os::FileDescriptor file_;
    void* marker_ = nullptr;
    std::uint64_t bytes_ = 0;
    std::uint64_t records_ = 0;
};

}  // namespace harena
