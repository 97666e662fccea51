// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/arena_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "harena/base/map_error.hpp"
#include "harena/base/os/inspect.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/os/shared_file.hpp"

namespace harena {

namespace {

constexpr std::uint64_t k_magic = 0x31616e65'72616821;  // "!harena1", lowest byte first
constexpr std::uint64_t k_version = 1;
constexpr std::size_t k_name_bytes = 208;
constexpr int k_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

/// The yes-or-no parts of a geometry; bit i of the flags is the i-th.
constexpr std::array k_flags{&ArenaGeometry::segv_on_fault,  &ArenaGeometry::no_user_conv,
                             &ArenaGeometry::strict_reserve, &ArenaGeometry::null_guard,
                             &ArenaGeometry::watched,        &ArenaGeometry::hugetlb};

/// What the last page of the file begins with.
struct Description {
    std::uint64_t magic;
    std::uint64_t version;
    std::uint64_t flags;
    std::uint64_t pages;
    std::uint64_t user_vm_start;
    std::uint64_t id;
    std::array<char, k_name_bytes> name;  // ends with a 0 or with the array
};
constexpr std::uint64_t k_slots_offset = 1024;
static_assert(sizeof(Description) <= k_slots_offset);
static_assert(k_slots_offset + AttachSlots::k_slots * sizeof(AttachSlot) <= k_page_size);

std::uint64_t granule(const ArenaGeometry& geometry) noexcept { return harena::bytes_of(geometry.unit()); }

std::uint64_t file_bytes(const ArenaGeometry& geometry) noexcept {
    const std::uint64_t words = geometry.pages.value() * sizeof(std::uint32_t);
    return ArenaFile::words_offset(geometry) + align_up(align_up(words, k_page_size) + k_page_size, granule(geometry));
}

Description describe(const ArenaGeometry& geometry) noexcept {
    Description description{.magic = k_magic,
                            .version = k_version,
                            .flags = 0,
                            .pages = geometry.pages.value(),
                            .user_vm_start = geometry.user_vm_start.value(),
                            .id = geometry.id,
                            .name = {}};
    for (std::size_t i = 0; i < k_flags.size(); ++i)
        description.flags |= geometry.*k_flags[i] ? std::uint64_t{1} << i : 0;
    std::ranges::copy(std::string_view{geometry.name}.substr(0, k_name_bytes), description.name.begin());
    return description;
}

std::unexpected<Error> no_arena(std::string_view why) { return fail(EINVAL, "this is not an arena's file: {}", why); }

// Untrusted: `d` is a private copy.
Result<ArenaGeometry> parse(const Description& d, std::uint64_t bytes) {
    if (d.magic != k_magic) return no_arena("it does not say that it is one");
    if (d.version != k_version)
        return fail(EINVAL, "this arena's file has form {}; this harena knows form {} only", d.version, k_version);
    if (d.flags >> k_flags.size() != 0) return no_arena("it has flags that there are not");
    if (d.pages == 0 || d.pages > 4 * k_gib / k_page_size) return no_arena("its number of pages cannot be");
    ArenaGeometry geometry{.name = {d.name.begin(), std::ranges::find(d.name, '\0')},
                           .pages = PageCount{d.pages},
                           .user_vm_start = UserAddress{d.user_vm_start},
                           .id = d.id};
    for (std::size_t i = 0; i < k_flags.size(); ++i) geometry.*k_flags[i] = (d.flags >> i & 1) != 0;
    const std::uint64_t last = d.user_vm_start + harena::bytes_of(geometry.pages) - 1;
    if (!is_aligned(d.user_vm_start, granule(geometry)) || d.user_vm_start >> 32 != last >> 32 ||
        !is_aligned(d.pages, geometry.unit().value()))
        return no_arena("its address cannot be");
    if (bytes != file_bytes(geometry)) return no_arena("its size is not what it says");
    return geometry;
}

}  // namespace

std::uint64_t ArenaFile::data_offset(const ArenaGeometry& geometry) noexcept {
    return geometry.user_vm_start.value() % k_huge_page_size;
}

std::uint64_t ArenaFile::words_offset(const ArenaGeometry& geometry) noexcept {
    return data_offset(geometry) + harena::bytes_of(geometry.pages);
}

Result<std::unique_ptr<ArenaFile>> ArenaFile::create(const ArenaGeometry& geometry) {
    std::unique_ptr<ArenaFile> file{new ArenaFile};
    file->geometry_ = geometry;
    file->geometry_.id = os::random_u64();
    const std::uint64_t bytes = file_bytes(geometry);
    HARENA_CHECK_OK(check_file_size(bytes, "the arena's file"));
    // Seen in /proc/self/maps; the kernel takes at most 249 bytes.
    const std::string name = fmt::format("harena:{}", std::string_view{geometry.name}.substr(0, 200));
    auto memfd = geometry.hugetlb ? os::memfd_create_hugetlb(name.c_str()) : os::memfd_create(name.c_str());
    if (!memfd) return os::fail_with(memfd.error(), "cannot create the arena's memfd");
    if (const auto sized = os::ftruncate(memfd->get(), bytes); !sized)
        return os::fail_with(sized.error(), fmt::format("cannot size the arena's memfd to {} bytes", bytes));
    if (const auto sealed = os::add_seals(memfd->get(), k_seals); !sealed)
        return os::fail_with(sealed.error(), "cannot seal the size of the arena's memfd");
    file->file_ = std::move(*memfd);
    HARENA_CHECK_OK(file->map());
    const Description description = describe(file->geometry_);
    std::memcpy(file->memory_ + file->bytes_ - k_page_size, &description, sizeof description);
    HARENA_CHECK_OK(file->slots_->take());
    return file;
}

Result<std::unique_ptr<ArenaFile>> ArenaFile::open(const std::string& path) {
    std::unique_ptr<ArenaFile> file{new ArenaFile};
    auto opened = os::open_for_sharing(path);
    if (!opened) return os::fail_with(opened.error(), fmt::format("cannot open '{}'", path));
    file->file_ = std::move(*opened);
    const auto facts = os::facts_of(file->fd());
    if (!facts) return os::fail_with(facts.error(), fmt::format("cannot look at '{}'", path));
    // A memfd, and one that nobody can shorten under our feet.
    const auto seals = os::get_seals(file->fd());
    if (!seals) return no_arena("it is no memfd");
    if ((*seals & k_seals) != k_seals) return no_arena("its size is not sealed");
    if ((*seals & ~(k_seals | 0x20 /* F_SEAL_EXEC */)) != 0) return no_arena("it is sealed against writing");
    HARENA_TRY(file->geometry_, read_geometry(file->fd(), facts->bytes));
    HARENA_CHECK_OK(file->map());
    HARENA_CHECK_OK(file->slots_->take());
    return file;
}

Result<ArenaGeometry> ArenaFile::read_geometry(int fd, std::uint64_t bytes) {
    if (bytes < 2 * k_page_size) return no_arena("it is too small");
    Description description;
    const auto got = os::pread(fd, &description, sizeof description, bytes - k_page_size);
    if (!got) return os::fail_with(got.error(), "the arena's file cannot be read");
    if (*got != sizeof description) return no_arena("it ends too early");
    return parse(description, bytes);
}

Result<void> ArenaFile::map() {
    const std::uint64_t offset = words_offset(geometry_);
    bytes_ = file_bytes(geometry_) - offset;
    const auto mapped = os::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd(), offset);
    if (!mapped) return os::fail_with(mapped.error(), "cannot map the arena's page words");
    memory_ = static_cast<std::byte*>(*mapped);
    if (const auto advised = os::madvise(memory_, bytes_, MADV_DONTFORK); !advised)
        return os::fail_with(advised.error(), "cannot keep the arena's page words from being inherited over fork");
    words_ = ArenaWords{reinterpret_cast<std::atomic<std::uint32_t>*>(memory_), geometry_.pages};
    slots_.emplace(fd(), offset + bytes_ - k_page_size,
                   reinterpret_cast<AttachSlot*>(memory_ + bytes_ - k_page_size + k_slots_offset));
    return {};
}

Result<os::FileDescriptor> ArenaFile::share() const {
    // Not a duplicate: that would share the lock, too, and keep this process alive to others after its end.
    auto other = os::open_for_sharing(fmt::format("/proc/self/fd/{}", fd()));
    if (!other) return os::fail_with(other.error(), "cannot open the arena's file again (is /proc mounted?)");
    return std::move(*other);
}

void ArenaFile::abandon_in_child() noexcept {
    // The number is this process's copy of the parent's descriptor: it would keep the parent's lock, and the child
    // could reach the parent's pages. The mapping was not inherited.
    file_.reset();
    memory_ = nullptr;
}

ArenaFile::~ArenaFile() {
    if (memory_ == nullptr) return;
    if (slots_) slots_->leave();
    (void)os::munmap(memory_, bytes_);
}

}  // namespace harena
