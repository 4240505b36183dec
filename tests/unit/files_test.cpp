#include "io/files.hpp"

#include <gtest/gtest.h>

#ifndef _WIN32
#include <sys/stat.h>
#endif
#include <torch/serialize.h>

#include <nlohmann/json.hpp>

#include "deepcache/tensor_io.hpp"
#include "expect_error.hpp"
#include "temporary_folder.hpp"
#include "tensor_near.hpp"

namespace deepcache::files_test {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_in(const fs::path& folder) {
  return {fs::directory_iterator(folder), fs::directory_iterator()};
}

TEST(Files, WrittenIsRead) {
  const TemporaryFolder folder;
  const std::string bytes("a\0b\r\n\xff", 6);
  write_file(folder.path() / "f", bytes);
  write_file(folder.path() / "f", bytes);  // replaces
  EXPECT_EQ(read_file(folder.path() / "f"), bytes);
  EXPECT_EQ(files_in(folder.path()).size(), 1U);
}

TEST(Files, UnwritableLeavesNothing) {
  const TemporaryFolder folder;
  expect_error<std::runtime_error>([&] { write_file(folder.path() / "absent/f", "x"); }, {"can't write", "absent"});
  fs::create_directory(folder.path() / "taken");
  expect_error<std::runtime_error>([&] { write_file(folder.path() / "taken", "x"); }, {"can't write", "taken"});
  EXPECT_EQ(files_in(folder.path()), (std::vector<fs::path>{folder.path() / "taken"}));
}

TEST(Files, LinksAndDevicesStayWhatTheyAre) {
  const TemporaryFolder folder;
  write_file(folder.path() / "target", "old");
  std::error_code unsupported;
  fs::create_symlink("target", folder.path() / "link", unsupported);
  if (unsupported) GTEST_SKIP() << "no symbolic links here";
  write_file(folder.path() / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder.path() / "link"));
  EXPECT_EQ(read_file(folder.path() / "target"), "new");
  fs::create_directory(folder.path() / "sub");
  fs::create_symlink("sub/new", folder.path() / "dangling");
  fs::create_symlink("dangling", folder.path() / "twice");
  check_writable(folder.path() / "twice");
  EXPECT_FALSE(fs::exists(folder.path() / "sub/new"));
  write_file(folder.path() / "twice", "newest");
  EXPECT_TRUE(fs::is_symlink(folder.path() / "twice") && fs::is_symlink(folder.path() / "dangling"));
  EXPECT_EQ(read_file(folder.path() / "sub/new"), "newest");
  if (!fs::is_character_file("/dev/null")) GTEST_SKIP() << "no /dev/null here";
  fs::create_symlink("/dev/null", folder.path() / "null");
  write_file(folder.path() / "null", "x");
  EXPECT_TRUE(fs::is_character_file(folder.path() / "null"));
  EXPECT_EQ(files_in(folder.path()).size(), 6U);
}

TEST(Files, WhatCanBeWrittenIsKnownBefore) {
  const TemporaryFolder folder;
  check_writable(folder.path() / "new");
  write_file(folder.path() / "old", "x");
  check_writable(folder.path() / "old");
  EXPECT_EQ(read_file(folder.path() / "old"), "x");
  fs::create_directory(folder.path() / "taken");
  for (const auto* name : {"taken", "absent/f"})
    expect_error<std::runtime_error>([&] { check_writable(folder.path() / name); }, {"can't write", name});
  EXPECT_EQ(files_in(folder.path()).size(), 2U);
#ifndef _WIN32
  const auto pipe = folder.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  check_writable(pipe);  // without waiting for a reader
#endif
}

TEST(Files, ReadingErrorsNameTheFile) {
  const TemporaryFolder folder;
  expect_error<std::runtime_error>([&] { read_file(folder.path() / "absent"); }, {"no such file", "absent"});
  expect_error<std::runtime_error>([&] { read_file(folder.path()); }, {"no such file"});
  write_file(folder.path() / "bad.json", "{\"a\": ");
  expect_error<std::runtime_error>([&] { read_json(folder.path() / "bad.json"); }, {"bad.json isn't valid JSON"});
  write_file(folder.path() / "large.json", "{\"a\": 1e999}");
  expect_error<std::runtime_error>([&] { read_json(folder.path() / "large.json"); }, {"large.json isn't valid JSON"});
}

TEST(Files, Sha256OfKnownText) {  // FIPS 180-4's example
  const TemporaryFolder folder;
  write_file(folder.path() / "abc", "abc");
  EXPECT_EQ(sha256(folder.path() / "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  expect_error<std::runtime_error>([&] { sha256(folder.path() / "absent"); }, {"no such file"});
}

TEST(TensorFiles, SavedIsLoaded) {
  const TemporaryFolder folder;
  for (const auto dtype : {torch::kFloat, torch::kHalf, torch::kBFloat16, torch::kLong}) {
    const auto tensor = torch::arange(24).reshape({2, 3, 4}).to(dtype).transpose(0, 2);
    save_tensor(tensor, folder.path() / "t.pt");
    expect_tensor_near(load_tensor(folder.path() / "t.pt"), tensor, 0);
  }
}

TEST(TensorFiles, Errors) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "t.pt";
  expect_error<std::runtime_error>([&] { load_tensor(file); }, {"no such file", "t.pt"});
  write_file(file, "not a tensor");
  expect_error<std::runtime_error>([&] { load_tensor(file); }, {"t.pt isn't a file that torch.save wrote"});
  const auto list = torch::pickle_save(c10::IValue(std::vector<torch::Tensor>{torch::ones(1)}));
  write_file(file, {list.data(), list.size()});
  expect_error<std::runtime_error>([&] { load_tensor(file); }, {"must hold a single tensor, it holds"});
  expect_error<std::runtime_error>([&] { save_tensor(torch::ones(1), folder.path() / "absent/t.pt"); },
                                   {"can't write"});
}

}  // namespace
}  // namespace deepcache::files_test
