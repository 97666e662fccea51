// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/process_map.hpp"

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <latch>
#include <random>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/file.hpp"
#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using test::k_sanitized;
using test::refused;

MapDefinition definition(std::uint32_t type, std::uint32_t key_size, std::uint32_t value_size, std::uint32_t entries,
                         std::uint32_t flags = 0) {
    return {.name = "values",
            .type = type,
            .key_size = key_size,
            .value_size = value_size,
            .max_entries = entries,
            .flags = flags};
}

std::shared_ptr<ProcessMap> make(const MapDefinition& wanted) {
    auto map = ProcessMap::create(wanted);
    EXPECT_TRUE(map) << map.error().message();
    return map ? *std::move(map) : nullptr;
}
std::shared_ptr<ProcessMap> make_hash(std::uint32_t entries, std::uint32_t key_size = 8) {
    return make(definition(map_type::hash, key_size, 8, entries));
}
std::shared_ptr<ProcessMap> make_array(std::uint32_t entries) {
    return make(definition(map_type::array, 4, 8, entries));
}

template <typename T>
std::span<const std::byte> bytes(const T& value) {
    return std::as_bytes(std::span{&value, 1});
}
template <typename T = std::uint64_t>
T number(const std::vector<std::byte>& from) {
    T value{};
    EXPECT_EQ(from.size(), sizeof value);
    std::memcpy(&value, from.data(), std::min(from.size(), sizeof value));
    return value;
}

using Key = std::uint64_t;

Result<void> put(Map& map, Key key, std::uint64_t value, UpdateMode mode = UpdateMode::any) {
    return map.update(bytes(key), bytes(value), mode);
}

/// All keys of a map, by next_key.
std::vector<Key> keys_of(Map& map) {
    std::vector<Key> keys;
    auto key = map.next_key(std::nullopt);
    while (key) {
        keys.push_back(number(*key));
        key = map.next_key(*key);
    }
    EXPECT_EQ(key.error().code(), ENOENT);
    return keys;
}

TEST(HashMap, does_what_a_model_does) {
    constexpr std::uint32_t k_entries = 100;
    const auto map = make_hash(k_entries);
    std::unordered_map<Key, std::uint64_t> model;
    std::minstd_rand random{20261120};
    for (int step = 0; step < 200'000; ++step) {
        const Key key = random() % 150;
        const std::uint64_t value = random();
        const bool known = model.contains(key);
        const bool full = model.size() == k_entries;
        const auto expect = [&](const Result<void>& result, int error) {
            ASSERT_EQ(result ? 0 : result.error().code(), error) << "step " << step;
            if (result) model[key] = value;
        };
        switch (random() % 5) {
            case 0:
                expect(put(*map, key, value), !known && full ? E2BIG : 0);
                break;
            case 1:
                expect(put(*map, key, value, UpdateMode::create), known ? EEXIST : full ? E2BIG : 0);
                break;
            case 2:
                expect(put(*map, key, value, UpdateMode::replace), known ? 0 : ENOENT);
                break;
            case 3: {
                const auto erased = map->erase(bytes(key));
                ASSERT_EQ(erased ? 0 : erased.error().code(), known ? 0 : ENOENT);
                model.erase(key);
                break;
            }
            default: {
                const auto found = map->lookup(bytes(key));
                ASSERT_EQ(found.has_value(), known);
                if (found) {
                    ASSERT_EQ(number(*found), model.at(key));
                } else {
                    ASSERT_EQ(found.error().code(), ENOENT);
                }
            }
        }
        if (step % 5000 == 0) {
            const auto keys = keys_of(*map);
            const std::set<Key> distinct{keys.begin(), keys.end()};
            ASSERT_EQ(keys.size(), model.size());
            ASSERT_EQ(distinct.size(), model.size()) << "each key once";
            for (const Key one : keys) ASSERT_TRUE(model.contains(one));
        }
    }
}

TEST(HashMap, keys_of_every_length_differ_in_every_byte) {
    for (const std::uint32_t size : {1U, 2U, 3U, 7U, 8U, 9U, 15U, 16U, 511U, 512U}) {
        const auto map = make_hash(1024, size);
        std::vector<std::byte> key(size);
        const std::uint64_t none = 0;
        ASSERT_TRUE(map->update(key, bytes(none), UpdateMode::create));
        for (std::uint64_t at = 0; at < size; ++at) {
            key[at] = std::byte{1};
            const std::uint64_t value = at + 1;
            ASSERT_TRUE(map->update(key, bytes(value), UpdateMode::create)) << size << "@" << at;
            key[at] = std::byte{0};
        }
        for (std::uint64_t at = 0; at < size; ++at) {
            key[at] = std::byte{1};
            EXPECT_EQ(number(map->lookup(key).value()), at + 1);
            key[at] = std::byte{0};
        }
    }
}

TEST(HashMap, max_entries_is_exact_and_a_deleted_entry_makes_room) {
    const auto map = make_hash(3);
    for (const Key key : {1ULL, 2ULL, 3ULL}) ASSERT_TRUE(put(*map, key, key));
    EXPECT_TRUE(refused(put(*map, 4, 4), E2BIG, "map 'values': update"));
    EXPECT_TRUE(put(*map, 2, 20)) << "one that is there can be replaced";
    const Key two = 2;
    ASSERT_TRUE(map->erase(bytes(two)));
    EXPECT_TRUE(put(*map, 4, 4));
    EXPECT_TRUE(refused(put(*map, 2, 2), E2BIG, ""));
}

TEST(HashMap, a_pointer_to_a_deleted_value_stays_in_the_map) {
    const auto map = make_hash(2);
    const Key key = 1;
    ASSERT_TRUE(put(*map, key, 11));
    std::byte* const value = map->find(bytes(key).data());
    ASSERT_TRUE(map->erase(bytes(key)));
    EXPECT_EQ(map->find(bytes(key).data()), nullptr);
    std::memset(value, 0xff, 8);  // what a program may still do
    ASSERT_TRUE(put(*map, 2, 22));
    ASSERT_TRUE(put(*map, 3, 33));
    EXPECT_EQ(number(map->lookup(bytes(Key{2})).value()), 22U);
    EXPECT_EQ(number(map->lookup(bytes(Key{3})).value()), 33U);
}

TEST(HashMap, a_key_that_is_gone_begins_the_iteration_again) {
    const auto map = make_hash(4);
    ASSERT_TRUE(put(*map, 1, 1));
    const Key unknown = 9;
    EXPECT_EQ(number(map->next_key(bytes(unknown)).value()), 1U);
    EXPECT_TRUE(refused(make_hash(4)->next_key(std::nullopt), ENOENT, "next key"));
}

TEST(HashMap, iterating_over_many_entries_takes_linear_time) {
    constexpr std::uint32_t k_many = k_sanitized ? 100'000 : 1'000'000;  // squared, this would take minutes
    const auto map = make_hash(k_many);
    for (Key key = 0; key < k_many; ++key) ASSERT_TRUE(put(*map, key, key));
    EXPECT_EQ(keys_of(*map).size(), k_many);
}

TEST(ArrayMap, all_entries_are_there_and_zero) {
    const auto map = make_array(3);
    for (const std::uint32_t index : {0U, 1U, 2U}) EXPECT_EQ(number(map->lookup(bytes(index)).value()), 0U);
    const std::uint32_t beyond = 3;
    const std::uint64_t value = 7;
    EXPECT_TRUE(refused(map->lookup(bytes(beyond)), ENOENT, "lookup"));
    EXPECT_TRUE(refused(map->update(bytes(beyond), bytes(value), UpdateMode::any), E2BIG, "update"));
    EXPECT_TRUE(refused(map->update(bytes(0U), bytes(value), UpdateMode::create), EEXIST, "update"));
    EXPECT_TRUE(map->update(bytes(1U), bytes(value), UpdateMode::replace));
    EXPECT_TRUE(refused(map->erase(bytes(1U)), EINVAL, "delete"));
    EXPECT_EQ(number(map->lookup(bytes(1U)).value()), 7U);
    EXPECT_EQ(number(map->lookup(bytes(0U)).value()), 0U);
    EXPECT_EQ(number(map->lookup(bytes(2U)).value()), 0U);
}

TEST(ArrayMap, keys_are_the_indices_in_order) {
    const auto map = make_array(3);
    EXPECT_EQ(number<std::uint32_t>(map->next_key(std::nullopt).value()), 0U);
    EXPECT_EQ(number<std::uint32_t>(map->next_key(bytes(0U)).value()), 1U);
    EXPECT_EQ(number<std::uint32_t>(map->next_key(bytes(1U)).value()), 2U);
    EXPECT_TRUE(refused(map->next_key(bytes(2U)), ENOENT, ""));
    EXPECT_EQ(number<std::uint32_t>(map->next_key(bytes(77U)).value()), 0U) << "as in Linux";
}

TEST(ArrayMap, values_of_odd_sizes_do_not_touch_each_other) {
    const auto map = make(definition(map_type::array, 4, 3, 4));
    const std::array<std::byte, 3> ones{std::byte{1}, std::byte{1}, std::byte{1}};
    ASSERT_TRUE(map->update(bytes(1U), ones, UpdateMode::any));
    EXPECT_EQ(map->lookup(bytes(0U)).value(), std::vector<std::byte>(3));
    EXPECT_EQ(map->lookup(bytes(2U)).value(), std::vector<std::byte>(3));
    EXPECT_EQ(map->lookup(bytes(1U)).value(), (std::vector<std::byte>{ones.begin(), ones.end()}));
}

TEST(ProcessMap, unknown_flags_of_an_update_are_refused) {
    for (const auto& map : {make_hash(2), make(definition(map_type::array, 4, 8, 2))}) {
        const std::uint64_t key = 0;
        const std::uint64_t value = 1;
        for (const std::uint64_t flags : {3ULL, 4ULL, 1ULL << 32, ~0ULL})
            EXPECT_EQ(map->update_elem(bytes(key).data(), bytes(value).data(), flags), -EINVAL);
    }
}

TEST(ProcessMap, keys_and_values_of_a_wrong_size_are_refused_and_named) {
    for (const auto& map : {make_hash(2), make_array(2), make(definition(map_type::prog_array, 4, 4, 2))}) {
        const std::vector<std::byte> key(map->definition().key_size + 1);
        const std::vector<std::byte> right_key(map->definition().key_size);
        const std::vector<std::byte> value(7);
        EXPECT_TRUE(refused(map->lookup(key), EINVAL, "the key has"));
        EXPECT_TRUE(refused(map->update(key, value, UpdateMode::any), EINVAL, "the key has"));
        EXPECT_TRUE(refused(map->update(right_key, value, UpdateMode::any), EINVAL, "the value has 7 bytes"));
        EXPECT_TRUE(refused(map->erase(key), EINVAL, "the key has"));
        EXPECT_TRUE(refused(map->next_key(key), EINVAL, "the key has"));
    }
}

TEST(ProcessMap, definitions_are_checked) {
    struct Case {
        MapDefinition definition;
        int code;
        const char* words;
    };
    const std::vector<Case> cases{
        {definition(map_type::hash, 8, 8, 0), EINVAL, "max_entries is 0"},
        {definition(map_type::hash, 0, 8, 1), EINVAL, "key_size 0"},
        {definition(map_type::hash, 513, 8, 1), E2BIG, "key_size 513"},
        {definition(map_type::hash, 8, 0, 1), EINVAL, "value_size 0"},
        {definition(map_type::hash, 8, (1U << 30) + 1, 1), E2BIG, "value_size"},
        {definition(map_type::hash, 8, 8, (1U << 30) + 1), E2BIG, "entries"},
        {definition(map_type::hash, 8, (1U << 22) - 72, 1), E2BIG, "key and value of 8 + 4194232 bytes"},
        {definition(map_type::hash, 8, 8, 1, 1U << 3), EINVAL, "map_flags 0x8"},
        {definition(map_type::array, 8, 8, 1), EINVAL, "the key of an ARRAY has 4 bytes, not 8"},
        {definition(map_type::array, 4, 8, 1, 1U << 7), EINVAL, "map_flags 0x80"},
        {definition(map_type::prog_array, 4, 8, 1), EINVAL, "PROG_ARRAY have 4 bytes"},
        {definition(map_type::prog_array, 4, 4, 1, 1), EINVAL, "map_flags 0x1"},
        {definition(9, 4, 8, 1), ENOTSUP, "LRU_HASH"},
        {definition(999, 4, 8, 1), ENOTSUP, "type 999"},
    };
    for (const Case& c : cases) {
        EXPECT_TRUE(refused(ProcessMap::create(c.definition), c.code, c.words));
        EXPECT_TRUE(refused(ProcessMap::create(c.definition), c.code, "map 'values'"));
    }
    EXPECT_TRUE(ProcessMap::create(definition(map_type::hash, 8, (1U << 22) - 73, 1)));
    EXPECT_TRUE(ProcessMap::create(definition(map_type::hash, 8, 8, 1, 1))) << "BPF_F_NO_PREALLOC";
    EXPECT_TRUE(ProcessMap::create(definition(map_type::array, 4, 8, 1, 1U << 10))) << "BPF_F_MMAPABLE";
}

std::uint64_t resident_kib() {
    const auto file = os::read_file("/proc/self/status");
    if (!file) return 0;
    const std::string text{reinterpret_cast<const char*>(file->data()), file->size()};
    const auto at = text.find("VmRSS:");
    return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + 6, nullptr, 10);
}

TEST(ProcessMap, many_entries_cost_no_memory_before_they_are_used) {
    const std::uint64_t before = resident_kib();
    const auto hash = make_hash(20'000'000);
    const auto array = make_array(50'000'000);
    const auto programs = make(definition(map_type::prog_array, 4, 4, 100'000'000));
    ASSERT_TRUE(put(*hash, 1, 2));
    const std::uint32_t last = 49'999'999;
    EXPECT_EQ(number(array->lookup(bytes(last)).value()), 0U);
    if (k_sanitized) GTEST_SKIP() << "a sanitizer's allocator clears memory by writing";
    EXPECT_LT(resident_kib() - before, 64U * 1024U);
}

TEST(ProcessMap, a_map_that_does_not_fit_is_an_error) {
    if (k_sanitized) GTEST_SKIP() << "a sanitizer's allocator ends the process";
    EXPECT_TRUE(
        refused(ProcessMap::create(definition(map_type::array, 4, 1U << 30, ~0U)), ENOMEM, "map 'values': no memory"));
    EXPECT_TRUE(refused(ProcessMap::create(definition(map_type::hash, 8, 1U << 21, 1U << 30)), ENOMEM,
                        "map 'values': no memory"));
}

TEST(ProcessMap, threads_on_one_hash_map_lose_nothing) {
    constexpr int k_threads = 4;
    constexpr Key k_keys = 500;
    const auto map = make_hash(k_threads * k_keys);
    std::latch together{k_threads};
    std::vector<std::thread> threads;
    for (Key thread = 0; thread < k_threads; ++thread)
        threads.emplace_back([&, thread] {
            together.arrive_and_wait();
            for (int round = 0; round < 3; ++round) {
                for (Key key = 0; key < k_keys; ++key)
                    ASSERT_TRUE(put(*map, thread * k_keys + key, key + 1, UpdateMode::create));
                for (Key key = 0; key < k_keys; ++key)
                    ASSERT_EQ(number(map->lookup(bytes(thread * k_keys + key)).value()), key + 1);
                if (round == 2) break;
                for (Key key = 0; key < k_keys; ++key) ASSERT_TRUE(map->erase(bytes(thread * k_keys + key)));
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(keys_of(*map).size(), k_threads * k_keys);
}

TEST(ArenaMap, has_no_elements) {
    const auto loaded = test::ObjectBuilder{}.arena(1).program("main", {test::mov(test::r0, 0), test::exit()}).load();
    ASSERT_TRUE(loaded);
    Map& map = *loaded->maps.at(0);
    const std::array<std::byte, 4> key{};
    EXPECT_TRUE(refused(map.lookup(key), EINVAL, "is an arena"));
    EXPECT_TRUE(refused(map.update(key, key, UpdateMode::any), EOPNOTSUPP, "is an arena"));
    EXPECT_TRUE(refused(map.erase(key), EOPNOTSUPP, "is an arena"));
    EXPECT_TRUE(refused(map.next_key(std::nullopt), EOPNOTSUPP, "is an arena"));
    EXPECT_TRUE(refused(map.set_program(0, *loaded->programs.at(0)), EOPNOTSUPP, "PROG_ARRAY maps only"));
}

TEST(ProgramArray, takes_programs_of_this_engine_below_its_size) {
    const auto loaded = test::ObjectBuilder{}.program("main", {test::mov(test::r0, 0), test::exit()}).load();
    ASSERT_TRUE(loaded);
    const auto map = make(definition(map_type::prog_array, 4, 4, 2));
    EXPECT_TRUE(map->set_program(1, *loaded->programs.at(0)));
    EXPECT_TRUE(refused(map->set_program(2, *loaded->programs.at(0)), E2BIG, "index 2 is not below max_entries 2"));
    EXPECT_TRUE(map->erase(bytes(1U)));
    EXPECT_TRUE(refused(map->erase(bytes(1U)), ENOENT, "no program at index 1"));
    EXPECT_TRUE(refused(map->erase(bytes(7U)), ENOENT, "no program at index 7"));
    EXPECT_TRUE(refused(map->lookup(bytes(1U)), ENOENT, ""));
    EXPECT_TRUE(refused(map->update(bytes(1U), bytes(1U), UpdateMode::any), EOPNOTSUPP, ""));
}

TEST(ProgramArray, takes_no_program_of_another_engine) {
    class Foreign final : public Program {
    public:
        [[nodiscard]] const std::string& name() const noexcept override { return name_; }
        [[nodiscard]] ProgramType type() const noexcept override { return ProgramType::syscall; }
        [[nodiscard]] Result<RunResult> run(std::span<std::byte>, const RunOptions&) override { return RunResult{}; }
        [[nodiscard]] const FaultLog& fault_log() const noexcept override { return log_; }

    private:
        std::string name_ = "foreign";
        FaultLog log_;
    };
    Foreign program;
    EXPECT_TRUE(refused(make(definition(map_type::prog_array, 4, 4, 2))->set_program(0, program), EINVAL,
                        "program 'foreign' is of another engine"));
}

TEST(ProgramArray, changes_while_programs_jump_through_it) {
    using namespace test;
    ObjectBuilder object;
    object.map("jumps", map_type::prog_array, 4, 4, 1);
    object.program("main", join({map_address(r2, 0), mov(r3, 0), call_helper(12), mov(r0, 1), exit()}))
        .program("target", {mov(r0, 2), exit()});
    LoadedObject loaded = object.load().value();
    std::atomic<bool> done{false};
    std::atomic<std::uint64_t> odd{0};
    std::thread runs{[&] {
        for (int i = 0; i < 5000; ++i) {
            const auto result = loaded.programs.at(0)->run();
            odd += result && (result->return_value == 1 || result->return_value == 2) ? 0U : 1U;
        }
        done = true;
    }};
    while (!done) {
        ASSERT_TRUE(loaded.maps.at(0)->set_program(0, *loaded.programs.at(1)));
        ASSERT_TRUE(loaded.maps.at(0)->erase(bytes(0U)));
    }
    runs.join();
    EXPECT_EQ(odd.load(), 0U);
}

}  // namespace

}  // namespace harena::bpf
