// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "harena/base/os/sys_result.hpp"

/// The bpf(2) system call, one function a command. Errors are errno values, as the kernel gives them. Thread-safe.
///
/// Numbers are those of include/uapi/linux/bpf.h; file descriptors that are not wanted are -1.
namespace harena::os {

struct BpfMapSpec {
    std::uint32_t type = 0;
    std::uint32_t key_size = 0;
    std::uint32_t value_size = 0;
    std::uint32_t max_entries = 0;
    std::uint32_t flags = 0;
    std::uint64_t map_extra = 0;
    std::string_view name = {};  // characters that the kernel does not take are left out, as is what is too long
    int btf = -1;                // types of key and value, in a BTF that is loaded
    std::uint32_t key_type = 0;
    std::uint32_t value_type = 0;
};

struct BpfProgramSpec {
    std::uint32_t type = 0;
    std::uint32_t flags = 0;
    std::string_view name = {};
    const char* license = "";
    const void* instructions = nullptr;
    std::uint32_t instruction_count = 0;
    int btf = -1;
    std::span<const std::byte> function_records = {};  // of `function_record_size` bytes each: bpf_func_info
    std::uint32_t function_record_size = 0;
    std::span<const std::byte> line_records = {};  // bpf_line_info
    std::uint32_t line_record_size = 0;
    std::uint32_t log_level = 0;
    std::span<char> log = {};  // the end of the verifier's log, terminated with 0
    /// Where the size goes that the whole log has, with the 0. Before Linux 6.4 that is 0, and `log` is the beginning.
    std::uint32_t* true_log_size = nullptr;
};

[[nodiscard]] SysResult<FileDescriptor> bpf_map_create(const BpfMapSpec& spec) noexcept;
SysResult<void> bpf_map_lookup(int map, const void* key, void* value) noexcept;
SysResult<void> bpf_map_update(int map, const void* key, const void* value, std::uint64_t flags) noexcept;
SysResult<void> bpf_map_delete(int map, const void* key) noexcept;
/// The key after `key`, or the first one for null.
SysResult<void> bpf_map_next_key(int map, const void* key, void* next) noexcept;
/// No system call can change the map's values from now on. EBUSY while it is mapped writable.
SysResult<void> bpf_map_freeze(int map) noexcept;

[[nodiscard]] SysResult<FileDescriptor> bpf_btf_load(std::span<const std::byte> btf, std::span<char> log) noexcept;

/// EAGAIN (a signal arrived while the verifier worked): try again.
[[nodiscard]] SysResult<FileDescriptor> bpf_program_load(const BpfProgramSpec& spec) noexcept;
/// Runs a program once on this thread (BPF_PROG_TEST_RUN) with `context` for it to change; returns its result.
[[nodiscard]] SysResult<std::uint32_t> bpf_program_run(int program, std::span<std::byte> context) noexcept;
/// Attaches a program of type raw tracepoint until the result is closed. ENOENT: there is no such tracepoint.
[[nodiscard]] SysResult<FileDescriptor> bpf_attach_tracepoint(int program, const char* tracepoint) noexcept;

/// A range of machine code in the kernel.
struct BpfCode {
    std::uint64_t address;
    std::uint64_t bytes;
};
/// Where the functions of a program are; at most `code.size()` of them. Returns how many there are. Addresses
/// are zeros without CAP_SYSLOG, unless kernel.kptr_restrict and kernel.perf_event_paranoid show them to everybody.
[[nodiscard]] SysResult<std::size_t> bpf_jited_functions(int program, std::span<BpfCode> code);

/// Where a program's instructions are in the kernel, for one that was loaded with line records.
struct BpfJitedLine {
    std::uint32_t line_off;  // of the record; those of code that the kernel removed are not there
    std::uint32_t line_col;
    std::uint64_t address;
};
/// Up to `lines.size()` of them, in the order of the program; returns how many there are. Zeros as above.
[[nodiscard]] SysResult<std::size_t> bpf_jited_lines(int program, std::span<BpfJitedLine> lines);

}  // namespace harena::os
