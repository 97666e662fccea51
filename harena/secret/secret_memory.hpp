// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "harena/base/not_inherited.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"
#include "harena/secret/secret_fork_gate.hpp"

namespace harena {

/// Which memory secrets are in. docs/secret.md says who can reach which.
enum class SecretBackend : std::uint8_t {
    memfd_secret,  // out of the kernel's own direct map, too
    mlock,         // locked, and kept out of dumps and children
};

/// "memfd_secret", "mlock".
[[nodiscard]] std::string_view name_of(SecretBackend backend) noexcept;

/// The backend to use: memfd_secret, or mlock if that is allowed and memfd_secret is absent or refused. Errors: ENOSYS
/// (absent), EPERM, EACCES (refused) with what to do; others as they come, never answered by the weaker backend.
[[nodiscard]] Result<SecretBackend> choose_secret_backend(bool allow_mlock);

/// Secret memory at places that are reserved. All are thread-safe for different places; where one fails, the place may
/// be mapped already: `unmap` it.
namespace secret_memory {

/// Maps zeroed memory over [at, at + bytes), all of it present, locked, kept out of dumps and children. Nothing else
/// can map it. Errors: EAGAIN (RLIMIT_MEMLOCK), ENOMEM (memory, mappings), EMFILE, ENFILE, ENOSYS, EPERM.
[[nodiscard]] Result<void> map(SecretBackend backend, std::byte* at, std::size_t bytes);

/// Makes a file of secret memory that stays open, of zeros, with nothing mapped. Errors as above.
[[nodiscard]] Result<void> make_file(HeldSecretFile& file, std::size_t bytes);
/// Maps it. Errors: as above, and EBADF (its descriptor was closed by somebody else).
[[nodiscard]] Result<void> map_file(const HeldSecretFile& file, std::byte* at, std::size_t bytes);

/// Gives each page of a mapping its memory, by the kernel's hand: an error where a touch of ours would be a SIGBUS. The
/// first byte of each is zero afterwards. Errors: ENOMEM.
[[nodiscard]] Result<void> touch(std::byte* at, std::size_t bytes);

/// Makes [at, at + bytes) a reservation again, whatever is mapped there. It stays a mapping of its own.
os::SysResult<void> unmap(std::byte* at, std::size_t bytes) noexcept;
/// Makes it one mapping with the reservations beside it.
void join(std::byte* at, std::size_t bytes) noexcept;

/// Ends a reservation and all that is mapped in it. First it is all reservation: `guard` lets children inherit what is
/// mapped when it goes.
void end_reservation(std::optional<NotInherited>& guard, std::byte* at, std::size_t bytes) noexcept;

}  // namespace secret_memory

}  // namespace harena
