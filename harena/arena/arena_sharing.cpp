// SPDX-License-Identifier: Apache-2.0
//
// How processes come to have one arena together.
#include <algorithm>
#include <cerrno>
#include <new>

#include "harena/arena/nofault.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/base/os/inspect.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/os/shared_file.hpp"

namespace harena {

namespace {

Result<std::string> published_path(std::string_view name) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
               c == '_';
    };
    if (name.empty() || name.size() > 200 || !std::ranges::all_of(name, allowed))
        return fail(EINVAL, "'{}' is no name for an arena: 1 to 200 letters, digits, '.', '-' and '_'", name);
    return fmt::format("/dev/shm/harena.{}", name);
}

// Whether the link leads to a process that is gone, or to what another process with its number has there.
bool leads_to_no_arena(const std::string& path) {
    const auto target = os::readlink(path);
    if (!target || !target->starts_with("/proc/")) return false;  // `publish` makes no such links
    const auto opened = os::open_for_sharing(path);
    if (!opened) return opened.error().code == ENOENT;
    const auto facts = os::facts_of(opened->get());
    return facts && !ArenaFile::read_geometry(opened->get(), facts->bytes);
}

}  // namespace

Result<std::shared_ptr<ProcessArena>> ProcessArena::take_part(std::unique_ptr<ArenaFile> file,
                                                              const AttachOptions& options) {
    const ArenaGeometry& geometry = file->geometry();
    ArenaOptions all{.name = geometry.name,
                     .pages = geometry.pages,
                     .user_vm_start = geometry.user_vm_start,
                     .segv_on_fault = geometry.segv_on_fault,
                     .no_user_conv = geometry.no_user_conv,
                     .strict_reserve = geometry.strict_reserve,
                     .null_guard = geometry.null_guard,
                     .tuning = options.tuning,
                     .where = options.where};
    HARENA_CHECK_OK(tune(all));
    if (options.tuning.exact_presence && !geometry.watched)
        return fail(ENOSYS, "arena '{}' was made without userfaultfd, and exact_presence needs it", geometry.name);
    if (options.tuning.exact_presence && geometry.hugetlb)
        return fail(EINVAL, "arena '{}' is on pages of 2 MiB, which exact_presence excludes", geometry.name);
    const std::uint64_t base = align_down(geometry.user_vm_start.value(), Window::k_bytes);
    auto window = Window::reserve(base, geometry.name, options.where);
    if (!window) {
        // To everybody else a mistake in an address that was asked for; here there is no choice.
        const int code = window.error().code() == EEXIST ? EBUSY : window.error().code();
        return fail(code, "arena '{}' cannot be where its other processes have it: {}", geometry.name,
                    window.error().message());
    }
    std::shared_ptr<ProcessArena> arena{new ProcessArena{all, std::move(*window)}};
    if (auto started = arena->start(std::move(file), false); !started)
        return pass_on(started.error().in(fmt::format("arena '{}'", all.name)));
    return arena;
}

Result<std::shared_ptr<ProcessArena>> ProcessArena::attach(const std::string& path, const AttachOptions& options) try {
    const auto no_fork = fault_handler::block_forks();
    HARENA_CHECK_OK(nofault::register_text());
    HARENA_CHECK_OK(fault_handler::install());
    HARENA_TRY(auto file, ArenaFile::open(path));
    return take_part(std::move(file), options);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to keep account of the arena of '{}'", path);
}

Result<std::shared_ptr<ProcessArena>> ProcessArena::attach(int fd, const AttachOptions& options) {
    return attach(fmt::format("/proc/self/fd/{}", fd), options);
}

Result<std::shared_ptr<ProcessArena>> ProcessArena::attach_published(std::string_view name,
                                                                     const AttachOptions& options) {
    HARENA_TRY(const std::string path, published_path(name));
    // Anybody may make links in /dev/shm.
    const auto owner = os::owner_of(path);
    if (!owner) return os::fail_with(owner.error(), fmt::format("no arena is published as '{}'", name));
    if (*owner != 0 && *owner != os::user_id())
        return fail(EPERM, "'{}' was published by user {}, who is neither this process's nor root", name, *owner);
    return attach(path, options);
}

Result<os::FileDescriptor> ProcessArena::share_fd() {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    return presence_->file().share();
}

Result<void> ProcessArena::publish(std::string_view name) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    HARENA_TRY(const std::string path, published_path(name));
    const std::lock_guard lock{mutex_};
    if (!published_.empty()) return fail(EBUSY, "the arena is published already, as '{}'", published_);
    const std::string target = fmt::format("/proc/{}/fd/{}", os::process_id(), presence_->file().fd());
    auto linked = os::symlink(target, path);
    if (!linked && linked.error().code == EEXIST) {
        const auto owner = os::owner_of(path);
        const bool mine = owner && (*owner == os::user_id() || os::user_id() == 0);
        if (!mine || !leads_to_no_arena(path))
            return fail(EEXIST, "'{}' is the name of another arena ({})", name, path);
        (void)os::unlink(path);
        linked = os::symlink(target, path);
    }
    if (!linked) return os::fail_with(linked.error(), fmt::format("cannot make the link {}", path));
    published_ = path;
    return {};
}

}  // namespace harena
