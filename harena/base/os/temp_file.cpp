// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/temp_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "harena/base/os/invoke.hpp"

namespace harena::os {

SysResult<TempFile> TempFile::create(std::string_view suffix) {
    if (const int error = detail::injected(Call::open)) return sys_fail(error);
    const char* const folder = std::getenv("TMPDIR");
    std::string path =
        fmt::format("{}/harena-XXXXXX{}", folder == nullptr || *folder == '\0' ? "/tmp" : folder, suffix);
    const FileDescriptor file{::mkostemps(path.data(), static_cast<int>(suffix.size()), O_CLOEXEC)};
    if (file.get() < 0) return sys_fail(errno);
    return TempFile{std::move(path)};
}

TempFile::~TempFile() {
    if (!path_.empty()) ::unlink(path_.c_str());
}

}  // namespace harena::os
