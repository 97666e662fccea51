// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace harena {

/// A fixed number of elements that are all zero bytes at first. A large one costs memory only where it is written.
template <typename T>
    requires std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>
class ZeroedArray {
public:
    /// Throws std::bad_alloc.
    explicit ZeroedArray(std::size_t count)
        : elements_{static_cast<T*>(std::calloc(count == 0 ? 1 : count, sizeof(T)))}, count_{count} {
        if (!elements_) throw std::bad_alloc{};
    }

    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    [[nodiscard]] T* data() const noexcept { return elements_.get(); }
    [[nodiscard]] T& operator[](std::size_t index) const noexcept { return elements_.get()[index]; }

private:
    struct Free {
        void operator()(T* elements) const noexcept { std::free(elements); }
    };
    std::unique_ptr<T, Free> elements_;
    std::size_t count_;
};

}  // namespace harena
