// Generated from plugins/schema.py by `python -m tokexport.plugins.generate`: do not edit.
//
// Whether each parameter is within its limits. What depends on the shape or on two of them a kernel checks.
#pragma once

#include "tokexport_kernels.h"

namespace tokexport {

inline bool is_dtype(int dtype) { return dtype >= TOKEXPORT_FLOAT32 && dtype <= TOKEXPORT_BFLOAT16; }

inline int check_parameters(const tokexport_kcenter_merge_params& p) {
    if (p.start < TOKEXPORT_START_FIRST || p.start > TOKEXPORT_START_FARTHEST_FROM_MEAN) return TOKEXPORT_BAD_PARAMETER;
    return TOKEXPORT_OK;
}

inline int check_parameters(const tokexport_apet_params& p) {
    if (p.basis < 1 || p.basis > TOKEXPORT_MAX_BASIS) return TOKEXPORT_BAD_BASIS;
    if (p.merge != 0 && p.merge != 1) return TOKEXPORT_BAD_PARAMETER;
    if (p.basis_slots < TOKEXPORT_BASIS_OVERWRITE || p.basis_slots > TOKEXPORT_BASIS_NONE) return TOKEXPORT_BAD_PARAMETER;
    if (p.start < TOKEXPORT_START_FIRST || p.start > TOKEXPORT_START_FARTHEST_FROM_MEAN) return TOKEXPORT_BAD_PARAMETER;
    if (!(p.ridge >= 1e-09f && p.ridge <= 1000000000.0f)) return TOKEXPORT_BAD_PARAMETER;
    return TOKEXPORT_OK;
}

inline int check_parameters(const tokexport_topk_params& p) {
    if (p.score < TOKEXPORT_SCORE_GIVEN || p.score > TOKEXPORT_SCORE_DISTANCE_TO_MEAN) return TOKEXPORT_BAD_PARAMETER;
    if (!is_dtype(p.scores_dtype)) return TOKEXPORT_BAD_DTYPE;
    return TOKEXPORT_OK;
}

inline int check_parameters(const tokexport_tome_params& p) {
    if (p.metric_dim < 0 || p.metric_dim > TOKEXPORT_MAX_DIM) return TOKEXPORT_BAD_DIM;
    if (p.protect < 0 || p.protect > TOKEXPORT_MAX_TOKENS) return TOKEXPORT_BAD_PARAMETER;
    return TOKEXPORT_OK;
}

inline int check_parameters(const tokexport_dart_params& p) {
    if (p.pivots < 1 || p.pivots > TOKEXPORT_MAX_TOKENS) return TOKEXPORT_BAD_PARAMETER;
    if (p.keys_dim < 0 || p.keys_dim > TOKEXPORT_MAX_DIM) return TOKEXPORT_BAD_DIM;
    return TOKEXPORT_OK;
}

inline int check_parameters(const tokexport_visionzip_params& p) {
    if (p.contextual < 0 || p.contextual > TOKEXPORT_MAX_TOKENS) return TOKEXPORT_BAD_PARAMETER;
    if (p.merge < TOKEXPORT_MERGE_ADD || p.merge > TOKEXPORT_MERGE_MEAN) return TOKEXPORT_BAD_PARAMETER;
    if (!is_dtype(p.attention_dtype)) return TOKEXPORT_BAD_DTYPE;
    if (p.keys_dim < 1 || p.keys_dim > TOKEXPORT_MAX_DIM) return TOKEXPORT_BAD_DIM;
    return TOKEXPORT_OK;
}

inline int check_parameters(const tokexport_cdpruner_params& p) {
    if (p.text_length < 1 || p.text_length > TOKEXPORT_MAX_TOKENS) return TOKEXPORT_BAD_PARAMETER;
    if (p.inverted != 0 && p.inverted != 1) return TOKEXPORT_BAD_PARAMETER;
    if (!is_dtype(p.text_dtype)) return TOKEXPORT_BAD_DTYPE;
    return TOKEXPORT_OK;
}

inline int check_parameters(const tokexport_scope_params& p) {
    if (!(p.alpha >= 0.0f && p.alpha <= 10.0f)) return TOKEXPORT_BAD_PARAMETER;
    if (!is_dtype(p.attention_dtype)) return TOKEXPORT_BAD_DTYPE;
    return TOKEXPORT_OK;
}

inline int check_parameters(const tokexport_evs_params&) {
    return TOKEXPORT_OK;
}

}  // namespace tokexport
