/* The token compressors as CUDA kernels: a plain C ABI, no TensorRT, no CUDA header.
 *
 * Every compressor takes tokens [B, N, D] and writes
 *
 *     tokens        [B, K, D']  dtype of the input
 *     kept_indices  [B, K]      int64, the position each slot inherits, ascending
 *     sizes         [B, K]      float, how many tokens each slot stands for
 *     assignment    [B, N]      int64, the slot each token went into, -1 if it was lost
 *
 * as its PyTorch reference of the same name in graph_passes/compressors defines them: float32 selection arithmetic,
 * ties to the lowest index, any batch. All pointers but the parameters are device pointers to contiguous arrays;
 * outputs must not overlap inputs. A call enqueues on `stream`, of the current device, and returns: it never
 * synchronises, allocates or copies to the host, so it can be captured in a CUDA graph. Results are deterministic:
 * floats are never summed by atomics. CUDA loads a kernel when it is first launched, which a capture may not allow: call
 * a method once before it is captured.
 *
 * The workspace is scratch memory, aligned to 16 bytes, whose contents need not survive between calls. Two calls that
 * may run at the same time need two. Its size depends on the arguments that `*_workspace` takes and on nothing else.
 *
 * Not finite tokens give unspecified but valid outputs: nothing is read or written out of bounds.
 */
#ifndef TOKEXPORT_KERNELS_H
#define TOKEXPORT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define TOKEXPORT_ALIGNMENT 16

struct CUstream_st; /* cudaStream_t is a pointer to it */
typedef struct CUstream_st* tokexport_stream;

/* 0 is success, anything else an error whose text tokexport_message() returns. Nothing was enqueued unless the code is
 * TOKEXPORT_CUDA_ERROR or above, which is that plus the cudaError_t. */
enum {
    TOKEXPORT_OK = 0,
    TOKEXPORT_BAD_BATCH,
    TOKEXPORT_BAD_TOKENS,
    TOKEXPORT_BAD_DIM,
    TOKEXPORT_BAD_KEEP,
    TOKEXPORT_BAD_DTYPE,
    TOKEXPORT_BAD_PARAMETER,
    TOKEXPORT_BAD_BASIS,
    TOKEXPORT_BAD_GRID,
    TOKEXPORT_NULL_POINTER,
    TOKEXPORT_SMALL_WORKSPACE,
    TOKEXPORT_MISALIGNED,
    TOKEXPORT_CUDA_ERROR = 1000
};

/* In words: a static string, never NULL. */
const char* tokexport_message(int status);

/* The GPUs that this library was compiled for, as CMake has them: "87-real 120-real"; empty where its build did not
 * say. A static string. */
const char* tokexport_architectures(void);

/* Generated from plugins/schema.py by `python -m tokexport.plugins.generate`: do not edit. */
#define TOKEXPORT_MAX_BATCH 65535
#define TOKEXPORT_MAX_TOKENS 32768
#define TOKEXPORT_MAX_DIM 32768
#define TOKEXPORT_MAX_BASIS 64

enum { TOKEXPORT_FLOAT32 = 0, TOKEXPORT_FLOAT16 = 1, TOKEXPORT_BFLOAT16 = 2 };
enum { TOKEXPORT_START_FIRST = 0, TOKEXPORT_START_MAX_NORM = 1, TOKEXPORT_START_FARTHEST_FROM_MEAN = 2 };
enum { TOKEXPORT_BASIS_OVERWRITE = 0, TOKEXPORT_BASIS_BLEND = 1, TOKEXPORT_BASIS_NONE = 2 };
enum { TOKEXPORT_SCORE_GIVEN = 0, TOKEXPORT_SCORE_NORM = 1, TOKEXPORT_SCORE_DISTANCE_TO_MEAN = 2 };
enum { TOKEXPORT_MERGE_ADD = 0, TOKEXPORT_MERGE_MEAN = 1 };

typedef struct {
    int32_t batch; /* B, 1 to TOKEXPORT_MAX_BATCH */
    int32_t tokens; /* N, 1 to TOKEXPORT_MAX_TOKENS */
    int32_t dim; /* D, 1 to TOKEXPORT_MAX_DIM */
    int32_t keep; /* K, 1 to N */
    int32_t dtype; /* of the tokens, in and out */
} tokexport_shape;

typedef struct {
    void* tokens;
    int64_t* kept_indices;
    float* sizes;
    int64_t* assignment;
} tokexport_outputs;

typedef struct {
    void* data; /* aligned to TOKEXPORT_ALIGNMENT bytes */
    size_t bytes;
} tokexport_workspace;

typedef struct {
    int32_t frames; /* N = frames * height * width, in reading order; 1 for an axis that is not there */
    int32_t height;
    int32_t width;
} tokexport_grid;

/* kcenter_merge: K farthest points; every token is averaged into the nearest of them. */
typedef struct {
    int32_t start; /* TOKEXPORT_START_* */
} tokexport_kcenter_merge_params;

int tokexport_kcenter_merge_workspace(const tokexport_shape* shape, const tokexport_kcenter_merge_params* params,
                                      size_t* bytes);
int tokexport_kcenter_merge(const tokexport_shape* shape, const tokexport_kcenter_merge_params* params,
                            const void* tokens, tokexport_outputs outputs, tokexport_workspace workspace,
                            tokexport_stream stream);

/* apet: keep the tokens that a basis of farthest points explains worst, merge the others into them by cosine. K > basis
 * unless basis_slots is TOKEXPORT_BASIS_NONE or K = N; basis is at most N. */
typedef struct {
    int32_t basis; /* 1 to TOKEXPORT_MAX_BASIS */
    int32_t merge; /* 0 or 1 */
    int32_t basis_slots; /* TOKEXPORT_BASIS_* */
    int32_t start; /* TOKEXPORT_START_* */
    float ridge; /* 1e-09 to 1e+09 */
} tokexport_apet_params;

int tokexport_apet_workspace(const tokexport_shape* shape, const tokexport_apet_params* params, size_t* bytes);
int tokexport_apet(const tokexport_shape* shape, const tokexport_apet_params* params, const void* tokens,
                   tokexport_outputs outputs, tokexport_workspace workspace, tokexport_stream stream);

/* topk: keep the tokens of the highest score. `scores` [B, N] is read for TOKEXPORT_SCORE_GIVEN only, and may be null
 * otherwise. */
typedef struct {
    int32_t score; /* TOKEXPORT_SCORE_* */
    int32_t scores_dtype; /* one of the dtypes, even where nothing is read */
} tokexport_topk_params;

int tokexport_topk_workspace(const tokexport_shape* shape, const tokexport_topk_params* params, size_t* bytes);
int tokexport_topk(const tokexport_shape* shape, const tokexport_topk_params* params, const void* tokens,
                   const void* scores, tokexport_outputs outputs, tokexport_workspace workspace,
                   tokexport_stream stream);

/* tome: rounds of bipartite soft matching. Even positions find their most similar odd one by the cosine of `metric` [B,
 * N, metric_dim] (dtype of the tokens); those of highest similarity merge into it, weighted by `sizes_in` [B, N] (null:
 * all 1), and sizes add up. The first `protect` tokens stay alone. A round on t tokens merges as many as K allows, at
 * most (t - protect) / 2; between rounds a slot has the mean of its tokens' metrics. Slots are in spatial order. K >
 * protect, or K = N. Where metric_dim is 0 the metric is the tokens, and `metric` may be null. */
typedef struct {
    int32_t metric_dim; /* 1 to TOKEXPORT_MAX_DIM, or 0 */
    int32_t protect; /* 0 to TOKEXPORT_MAX_TOKENS, at most N */
} tokexport_tome_params;

int tokexport_tome_workspace(const tokexport_shape* shape, const tokexport_tome_params* params, size_t* bytes);
int tokexport_tome(const tokexport_shape* shape, const tokexport_tome_params* params, const void* tokens,
                   const void* metric, const float* sizes_in, tokexport_outputs outputs, tokexport_workspace workspace,
                   tokexport_stream stream);

/* dart: the `pivots` tokens of the largest L1 norm of their `keys` [B, N, keys_dim] (dtype of the tokens). Then each
 * pivot, in spatial order, keeps of what is left the (K - pivots) / pivots tokens that are least similar to it by
 * cosine, and the first (K - pivots) % pivots of them one more. Where keys_dim is 0 norms are of the tokens, and `keys`
 * may be null. */
typedef struct {
    int32_t pivots; /* 1 to TOKEXPORT_MAX_TOKENS, at most K */
    int32_t keys_dim; /* 1 to TOKEXPORT_MAX_DIM, or 0 */
} tokexport_dart_params;

int tokexport_dart_workspace(const tokexport_shape* shape, const tokexport_dart_params* params, size_t* bytes);
int tokexport_dart(const tokexport_shape* shape, const tokexport_dart_params* params, const void* tokens,
                   const void* keys, tokexport_outputs outputs, tokexport_workspace workspace, tokexport_stream stream);

/* visionzip: the K - contextual tokens of the highest `attention` [B, N], and of the R others, in spatial order, every
 * floor(R / contextual)-th as a target. What is left goes to the target that is most similar by the cosine of `keys`
 * [B, N, keys_dim] (dtype of the tokens). A target's slot is itself plus the mean of what went to it, or the mean of
 * them all. */
typedef struct {
    int32_t contextual; /* 0 to TOKEXPORT_MAX_TOKENS, at most K - 1 */
    int32_t merge; /* TOKEXPORT_MERGE_* */
    int32_t attention_dtype; /* one of the dtypes, even where nothing is read */
    int32_t keys_dim; /* 1 to TOKEXPORT_MAX_DIM */
} tokexport_visionzip_params;

int tokexport_visionzip_workspace(const tokexport_shape* shape, const tokexport_visionzip_params* params,
                                  size_t* bytes);
int tokexport_visionzip(const tokexport_shape* shape, const tokexport_visionzip_params* params, const void* tokens,
                        const void* attention, const void* keys, tokexport_outputs outputs,
                        tokexport_workspace workspace, tokexport_stream stream);

/* divprune: the token farthest from its nearest neighbour, then the one farthest from all picked, by 1 - cosine. */

int tokexport_divprune_workspace(const tokexport_shape* shape, size_t* bytes);
int tokexport_divprune(const tokexport_shape* shape, const void* tokens, tokexport_outputs outputs,
                       tokexport_workspace workspace, tokexport_stream stream);

/* cdpruner: greedy maximum of the determinant of L_ij = r_i r_j cosine_ij. Relevance r is the mean cosine of a token
 * with the rows of `text` [B, text_length, D] that are not all zeros, its sign turned where `inverted`, brought to [0,
 * 1] by the least and the largest of all tokens. A token that adds less than 1e-6 to the determinant is ranked by
 * relevance, after all that add more. Its workspace grows as B N K. */
typedef struct {
    int32_t text_length; /* 1 to TOKEXPORT_MAX_TOKENS */
    int32_t inverted; /* 0 or 1 */
    int32_t text_dtype; /* one of the dtypes, even where nothing is read */
} tokexport_cdpruner_params;

int tokexport_cdpruner_workspace(const tokexport_shape* shape, const tokexport_cdpruner_params* params, size_t* bytes);
int tokexport_cdpruner(const tokexport_shape* shape, const tokexport_cdpruner_params* params, const void* tokens,
                       const void* text, tokexport_outputs outputs, tokexport_workspace workspace,
                       tokexport_stream stream);

/* scope: the token whose pick raises sum_i max(0, cosine_ij, cosines to the picked) most, times its `attention` [B, N],
 * which is not negative, to the power of alpha. Its workspace grows as B N^2. */
typedef struct {
    float alpha; /* 0 to 10 */
    int32_t attention_dtype; /* one of the dtypes, even where nothing is read */
} tokexport_scope_params;

int tokexport_scope_workspace(const tokexport_shape* shape, const tokexport_scope_params* params, size_t* bytes);
int tokexport_scope(const tokexport_shape* shape, const tokexport_scope_params* params, const void* tokens,
                    const void* attention, tokexport_outputs outputs, tokexport_workspace workspace,
                    tokexport_stream stream);

/* evs: the first frame, and of all others the tokens that differ most by cosine from the one at their place a frame
 * earlier. K is at least height * width. */
typedef struct {
    tokexport_grid grid;
} tokexport_evs_params;

int tokexport_evs_workspace(const tokexport_shape* shape, const tokexport_evs_params* params, size_t* bytes);
int tokexport_evs(const tokexport_shape* shape, const tokexport_evs_params* params, const void* tokens,
                  tokexport_outputs outputs, tokexport_workspace workspace, tokexport_stream stream);
/* End of what is generated. */

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
