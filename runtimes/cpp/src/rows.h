// Writing over a part of a tensor in host memory.
#pragma once

#include "tokexport/tensor.h"

namespace tokexport {

// Copies the values of a buffer, row after row, over these rows of `to`.
void copy_rows(void* to, const Buffer& values, const Rows& rows);

}  // namespace tokexport
