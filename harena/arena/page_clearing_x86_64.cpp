// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/page_clearing.hpp"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace harena {

void clear_cold_pages(std::byte* begin, std::size_t bytes) noexcept {
// Sanitizers are to see these accesses.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    const __m128i zero = _mm_setzero_si128();
    auto* const end = reinterpret_cast<__m128i*>(begin + bytes);
    for (auto* at = reinterpret_cast<__m128i*>(begin); at != end; at += 4) {
        _mm_stream_si128(at, zero);
        _mm_stream_si128(at + 1, zero);
        _mm_stream_si128(at + 2, zero);
        _mm_stream_si128(at + 3, zero);
    }
    _mm_sfence();  // before a release store hands the pages to others, which does not order these
#else
    std::memset(begin, 0, bytes);
#endif
}

}  // namespace harena
