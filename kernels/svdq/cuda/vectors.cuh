// What a thread loads or stores at once; the alignment is what the address must have.
#pragma once

struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float at[4];
};
struct alignas(8) Half4 {
  unsigned short at[4];
};
struct alignas(16) Word4 {
  unsigned at[4];
};
