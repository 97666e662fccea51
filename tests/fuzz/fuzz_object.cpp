// SPDX-License-Identifier: Apache-2.0
// Any bytes give a sound object or a one-line error.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

#include "harena/bpf/object_file.hpp"
#include "harena/bpf/object_test_support.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using harena::bpf::ObjectFile;
    const auto object = ObjectFile::parse(std::as_bytes(std::span{data, size}), "fuzz.o");
    const std::string complaint = harena::bpf::test::complaint_about(object);
    if (!complaint.empty()) {
        std::fprintf(stderr, "%s\n", complaint.c_str());
        std::abort();
    }
    return 0;
}
