// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"
#include "harena/bpf/engine.hpp"
#include "harena/bpf/object_file.hpp"
#include "harena/kernel/object_btf.hpp"

namespace harena::kernel {

/// The maps in the kernel that hold an object's global variables, one for each section but the arena's.
class DataMaps {
public:
    /// Makes the maps with `contents`, which are as large as `data`; those of constants cannot change any more.
    [[nodiscard]] static Result<DataMaps> create(const bpf::ObjectFile& file, const std::vector<bpf::DataMemory>& data,
                                                 const std::vector<const std::byte*>& contents, const ObjectBtf& btf);

    /// As `ObjectFile::data`; -1 for the arena's.
    [[nodiscard]] std::vector<int> fds() const;

    /// Puts the maps' memory where `data` is: from then on host and programs use the same bytes, and forked children
    /// have none. After an error, all is as it was.
    Result<void> map_over(std::vector<bpf::DataMemory>& data) const;

private:
    std::vector<os::FileDescriptor> maps_;
};

}  // namespace harena::kernel
