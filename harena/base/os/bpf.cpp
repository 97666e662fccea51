// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/bpf.hpp"

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "harena/base/os/invoke.hpp"

namespace harena::os {

namespace {

template <typename Attributes>
SysResult<int> bpf(Call call, int command, Attributes& attributes) noexcept {
    if (const int error = detail::injected(call)) return sys_fail(error);
    const long result = ::syscall(SYS_bpf, command, &attributes, sizeof attributes);
    if (result < 0) return sys_fail(errno);
    return static_cast<int>(result);
}

template <typename Attributes>
SysResult<FileDescriptor> open_bpf(Call call, int command, Attributes& attributes) noexcept {
    const SysResult<int> fd = bpf(call, command, attributes);
    if (!fd) return std::unexpected{fd.error()};
    return FileDescriptor{*fd};
}

template <typename Attributes>
SysResult<void> done(Call call, int command, Attributes& attributes) noexcept {
    const SysResult<int> result = bpf(call, command, attributes);
    if (!result) return std::unexpected{result.error()};
    return {};
}

std::uint64_t address_of(const void* memory) noexcept { return reinterpret_cast<std::uint64_t>(memory); }

template <std::size_t Size>
void copy_name(std::string_view name, char (&to)[Size]) noexcept {
    std::size_t length = 0;
    for (const char c : name) {
        const bool fits =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
        if (fits && length + 1 < Size) to[length++] = c;
    }
}

bpf_attr element(int map, const void* key) noexcept {
    bpf_attr attributes{};
    attributes.map_fd = static_cast<std::uint32_t>(map);
    attributes.key = address_of(key);
    return attributes;
}

}  // namespace

SysResult<FileDescriptor> bpf_map_create(const BpfMapSpec& spec) noexcept {
    bpf_attr attributes{};
    attributes.map_type = spec.type;
    attributes.key_size = spec.key_size;
    attributes.value_size = spec.value_size;
    attributes.max_entries = spec.max_entries;
    attributes.map_flags = spec.flags;
    attributes.map_extra = spec.map_extra;
    if (spec.btf >= 0) {
        attributes.btf_fd = static_cast<std::uint32_t>(spec.btf);
        attributes.btf_key_type_id = spec.key_type;
        attributes.btf_value_type_id = spec.value_type;
    }
    copy_name(spec.name, attributes.map_name);
    return open_bpf(Call::bpf_map_create, BPF_MAP_CREATE, attributes);
}

SysResult<void> bpf_map_lookup(int map, const void* key, void* value) noexcept {
    bpf_attr attributes = element(map, key);
    attributes.value = address_of(value);
    return done(Call::bpf_map_element, BPF_MAP_LOOKUP_ELEM, attributes);
}

SysResult<void> bpf_map_update(int map, const void* key, const void* value, std::uint64_t flags) noexcept {
    bpf_attr attributes = element(map, key);
    attributes.value = address_of(value);
    attributes.flags = flags;
    return done(Call::bpf_map_element, BPF_MAP_UPDATE_ELEM, attributes);
}

SysResult<void> bpf_map_delete(int map, const void* key) noexcept {
    bpf_attr attributes = element(map, key);
    return done(Call::bpf_map_element, BPF_MAP_DELETE_ELEM, attributes);
}

SysResult<void> bpf_map_next_key(int map, const void* key, void* next) noexcept {
    bpf_attr attributes = element(map, key);
    attributes.next_key = address_of(next);
    return done(Call::bpf_map_element, BPF_MAP_GET_NEXT_KEY, attributes);
}

SysResult<void> bpf_map_freeze(int map) noexcept {
    bpf_attr attributes = element(map, nullptr);
    return done(Call::bpf_map_freeze, BPF_MAP_FREEZE, attributes);
}

SysResult<FileDescriptor> bpf_btf_load(std::span<const std::byte> btf, std::span<char> log) noexcept {
    bpf_attr attributes{};
    attributes.btf = address_of(btf.data());
    attributes.btf_size = static_cast<std::uint32_t>(btf.size());
    if (!log.empty()) {
        attributes.btf_log_buf = address_of(log.data());
        attributes.btf_log_size = static_cast<std::uint32_t>(log.size());
        attributes.btf_log_level = 1;
    }
    return open_bpf(Call::bpf_btf_load, BPF_BTF_LOAD, attributes);
}

SysResult<FileDescriptor> bpf_program_load(const BpfProgramSpec& spec) noexcept {
    bpf_attr attributes{};
    attributes.prog_type = spec.type;
    attributes.prog_flags = spec.flags;
    attributes.insns = address_of(spec.instructions);
    attributes.insn_cnt = spec.instruction_count;
    attributes.license = address_of(spec.license);
    copy_name(spec.name, attributes.prog_name);
    if (spec.btf >= 0) attributes.prog_btf_fd = static_cast<std::uint32_t>(spec.btf);
    if (!spec.function_records.empty()) {
        attributes.func_info = address_of(spec.function_records.data());
        attributes.func_info_rec_size = spec.function_record_size;
        attributes.func_info_cnt = static_cast<std::uint32_t>(spec.function_records.size() / spec.function_record_size);
    }
    if (!spec.line_records.empty()) {
        attributes.line_info = address_of(spec.line_records.data());
        attributes.line_info_rec_size = spec.line_record_size;
        attributes.line_info_cnt = static_cast<std::uint32_t>(spec.line_records.size() / spec.line_record_size);
    }
    if (!spec.log.empty()) {
        attributes.log_buf = address_of(spec.log.data());
        attributes.log_size = static_cast<std::uint32_t>(spec.log.size());
        attributes.log_level = spec.log_level;
    }
    auto program = open_bpf(Call::bpf_program_load, BPF_PROG_LOAD, attributes);
    if (spec.true_log_size != nullptr) {
        // Linux 6.4 writes `log_true_size` there; the headers of Debian 12 do not have it.
        constexpr std::size_t k_at = offsetof(bpf_attr, core_relo_rec_size) + sizeof(std::uint32_t);
        static_assert(k_at + sizeof(std::uint32_t) <= sizeof(bpf_attr));
        std::memcpy(spec.true_log_size, reinterpret_cast<const std::byte*>(&attributes) + k_at, sizeof(std::uint32_t));
    }
    return program;
}

SysResult<std::uint32_t> bpf_program_run(int program, std::span<std::byte> context) noexcept {
    bpf_attr attributes{};
    attributes.test.prog_fd = static_cast<std::uint32_t>(program);
    attributes.test.ctx_in = address_of(context.data());
    attributes.test.ctx_size_in = static_cast<std::uint32_t>(context.size());
    if (context.empty()) attributes.test.ctx_in = 0;
    const SysResult<void> ran = done(Call::bpf_program_run, BPF_PROG_TEST_RUN, attributes);
    if (!ran) return std::unexpected{ran.error()};
    return attributes.test.retval;
}

SysResult<FileDescriptor> bpf_attach_tracepoint(int program, const char* tracepoint) noexcept {
    bpf_attr attributes{};
    attributes.raw_tracepoint.name = address_of(tracepoint);
    attributes.raw_tracepoint.prog_fd = static_cast<std::uint32_t>(program);
    return open_bpf(Call::bpf_attach, BPF_RAW_TRACEPOINT_OPEN, attributes);
}

namespace {

SysResult<void> ask_about(int program, bpf_prog_info& info) noexcept {
    bpf_attr attributes{};
    attributes.info.bpf_fd = static_cast<std::uint32_t>(program);
    attributes.info.info = address_of(&info);
    attributes.info.info_len = sizeof info;
    return done(Call::bpf_program_info, BPF_OBJ_GET_INFO_BY_FD, attributes);
}

template <typename T>
std::uint32_t size_of(const std::vector<T>& list) noexcept {
    return static_cast<std::uint32_t>(list.size());
}

}  // namespace

SysResult<std::size_t> bpf_jited_functions(int program, std::span<BpfCode> code) {
    bpf_prog_info info{};
    if (const auto asked = ask_about(program, info); !asked) return std::unexpected{asked.error()};
    std::vector<std::uint64_t> addresses(info.nr_jited_ksyms);
    std::vector<std::uint32_t> lengths(info.nr_jited_func_lens);
    if (code.size() < addresses.size() || lengths.size() < addresses.size()) return addresses.size();
    info = {};
    info.nr_jited_ksyms = size_of(addresses);
    info.jited_ksyms = address_of(addresses.data());
    info.nr_jited_func_lens = size_of(lengths);
    info.jited_func_lens = address_of(lengths.data());
    if (const auto asked = ask_about(program, info); !asked) return std::unexpected{asked.error()};
    for (std::size_t i = 0; i < addresses.size(); ++i) code[i] = {.address = addresses[i], .bytes = lengths[i]};
    return addresses.size();
}

SysResult<std::size_t> bpf_jited_lines(int program, std::span<BpfJitedLine> lines) {
    bpf_prog_info info{};
    if (const auto asked = ask_about(program, info); !asked) return std::unexpected{asked.error()};
    std::vector<bpf_line_info> places(info.nr_line_info);
    std::vector<std::uint64_t> addresses(info.nr_jited_line_info);
    const std::size_t count = std::min(places.size(), addresses.size());
    if (lines.size() < count || count == 0) return count;
    info = {};
    info.nr_line_info = size_of(places);
    info.line_info = address_of(places.data());
    info.line_info_rec_size = sizeof(bpf_line_info);
    info.nr_jited_line_info = size_of(addresses);
    info.jited_line_info = address_of(addresses.data());
    info.jited_line_info_rec_size = sizeof(std::uint64_t);
    if (const auto asked = ask_about(program, info); !asked) return std::unexpected{asked.error()};
    for (std::size_t i = 0; i < count; ++i)
        lines[i] = {.line_off = places[i].line_off, .line_col = places[i].line_col, .address = addresses[i]};
    return count;
}

}  // namespace harena::os
