#include "host.h"

namespace tokexport {

size_t bytes_of(int dtype) { return dtype == TOKEXPORT_FLOAT32 ? 4 : 2; }

static bool aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

int check(const tokexport_shape* shape) {
    if (shape == nullptr) return TOKEXPORT_NULL_POINTER;
    if (shape->batch < 1 || shape->batch > TOKEXPORT_MAX_BATCH) return TOKEXPORT_BAD_BATCH;
    if (shape->tokens < 1 || shape->tokens > TOKEXPORT_MAX_TOKENS) return TOKEXPORT_BAD_TOKENS;
    if (shape->dim < 1 || shape->dim > TOKEXPORT_MAX_DIM) return TOKEXPORT_BAD_DIM;
    if (shape->keep < 1 || shape->keep > shape->tokens) return TOKEXPORT_BAD_KEEP;
    if (!is_dtype(shape->dtype)) return TOKEXPORT_BAD_DTYPE;
    return TOKEXPORT_OK;
}

int check(const tokexport_shape& shape, const void* tokens, const tokexport_outputs& outputs,
          const tokexport_workspace& workspace, size_t needed) {
    const void* const pointers[] = {tokens, outputs.tokens, outputs.kept_indices, outputs.sizes, outputs.assignment};
    for (const void* pointer : pointers)
        if (pointer == nullptr) return TOKEXPORT_NULL_POINTER;
    if (needed > 0 && workspace.data == nullptr) return TOKEXPORT_NULL_POINTER;
    if (workspace.bytes < needed) return TOKEXPORT_SMALL_WORKSPACE;
    const bool fits = aligned(tokens, bytes_of(shape.dtype)) && aligned(outputs.tokens, bytes_of(shape.dtype)) &&
                      aligned(outputs.kept_indices, 8) && aligned(outputs.sizes, 4) && aligned(outputs.assignment, 8) &&
                      aligned(workspace.data, TOKEXPORT_ALIGNMENT);
    return fits ? TOKEXPORT_OK : TOKEXPORT_MISALIGNED;
}

int check_signal(const void* signal, size_t bytes) {
    if (signal == nullptr) return TOKEXPORT_NULL_POINTER;
    return aligned(signal, bytes) ? TOKEXPORT_OK : TOKEXPORT_MISALIGNED;
}

}  // namespace tokexport

#define AS_TEXT(x) #x
#define IN_WORDS(limit) AS_TEXT(limit)

#ifndef TOKEXPORT_ARCHITECTURES
#define TOKEXPORT_ARCHITECTURES ""
#endif

const char* tokexport_architectures(void) { return TOKEXPORT_ARCHITECTURES; }

const char* tokexport_message(int status) {
    switch (status) {
        case TOKEXPORT_OK: return "success";
        case TOKEXPORT_BAD_BATCH: return "batch is outside 1.." IN_WORDS(TOKEXPORT_MAX_BATCH);
        case TOKEXPORT_BAD_TOKENS: return "tokens are outside 1.." IN_WORDS(TOKEXPORT_MAX_TOKENS);
        case TOKEXPORT_BAD_DIM: return "dim is outside 1.." IN_WORDS(TOKEXPORT_MAX_DIM);
        case TOKEXPORT_BAD_KEEP: return "keep is not a number that this method can keep of these tokens";
        case TOKEXPORT_BAD_DTYPE: return "dtype is not one of TOKEXPORT_FLOAT32, TOKEXPORT_FLOAT16, TOKEXPORT_BFLOAT16";
        case TOKEXPORT_BAD_PARAMETER: return "a parameter of the method is outside its domain";
        case TOKEXPORT_BAD_BASIS: return "basis is outside 1.." IN_WORDS(TOKEXPORT_MAX_BASIS) ", or more than the tokens";
        case TOKEXPORT_BAD_GRID: return "the grid does not have as many places as there are tokens";
        case TOKEXPORT_NULL_POINTER: return "a required pointer is null";
        case TOKEXPORT_SMALL_WORKSPACE: return "the workspace is smaller than the size function says";
        case TOKEXPORT_MISALIGNED: return "a pointer is not aligned to its elements, or the workspace not to 16 bytes";
        case TOKEXPORT_CUDA_ERROR + cudaErrorNoKernelImageForDevice:
            return "the library was not compiled for this GPU; on it run: tokexport plugins build";
        default: break;
    }
    if (status < TOKEXPORT_CUDA_ERROR) return "not a status of this library";
    return cudaGetErrorString(static_cast<cudaError_t>(status - TOKEXPORT_CUDA_ERROR));
}
