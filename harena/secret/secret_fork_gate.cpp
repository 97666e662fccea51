// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_fork_gate.hpp"

#include <cerrno>
#include <mutex>

#include "harena/base/fork.hpp"
#include "harena/base/immortal.hpp"

namespace harena {

namespace {

struct Gate {
    std::mutex mutex;  // the gate itself; protects the list
    HeldSecretFile* first_held = nullptr;
};

constinit Immortal<Gate> gate;

}  // namespace

Result<void> HeldSecretFile::hold(os::FileDescriptor file) {
    const auto facts = os::facts_of(file.get());
    if (!facts) return os::fail_with(facts.error(), "cannot tell which file the secret memory is");
    file_ = std::move(file);
    facts_ = *facts;
    next_ = gate.value.first_held;
    if (next_ != nullptr) next_->previous_ = this;
    gate.value.first_held = this;
    return {};
}

Result<void> HeldSecretFile::check() const {
    const auto facts = os::facts_of(file_.get());
    if (!facts && facts.error().code != EBADF)
        return os::fail_with(facts.error(), "cannot tell which file the secret memory is");
    if (!facts || !facts->same_file(facts_))
        return fail(
            EBADF,
            "descriptor {} was that of secret memory, and somebody else closed it: what was in it is lost; look "
            "for code that closes descriptors that it did not open",
            file_.get());
    return {};
}

void HeldSecretFile::close() noexcept {
    const auto facts = os::facts_of(file_.get());
    const bool lost = facts ? !facts->same_file(facts_) : facts.error().code == EBADF;
    if (lost)
        file_.release();
    else
        file_.reset();
}

HeldSecretFile::~HeldSecretFile() {
    if (file_.get() < 0) return;
    const SecretForkGate held;
    if (next_ != nullptr) next_->previous_ = previous_;
    (previous_ != nullptr ? previous_->next_ : gate.value.first_held) = next_;
    close();
}

Result<void> SecretForkGate::prepare() {
    static ForkRules rules;
    return rules.ensure({.prepare = &before_fork, .parent = &after_fork_in_parent, .child = &after_fork_in_child});
}

SecretForkGate::SecretForkGate() noexcept { gate.value.mutex.lock(); }
SecretForkGate::~SecretForkGate() { gate.value.mutex.unlock(); }

void SecretForkGate::before_fork() noexcept { gate.value.mutex.lock(); }
void SecretForkGate::after_fork_in_parent() noexcept { gate.value.mutex.unlock(); }
void SecretForkGate::after_fork_in_child() noexcept {
    for (HeldSecretFile* file = gate.value.first_held; file != nullptr;) {
        HeldSecretFile* const next = file->next_;
        file->close();
        file->previous_ = file->next_ = nullptr;
        file = next;
    }
    gate.value.first_held = nullptr;
    gate.value.mutex.unlock();
}

}  // namespace harena
