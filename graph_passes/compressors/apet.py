"""ApET: keep the tokens with the largest error in a small basis, and merge the others into them.

Source: ApET (arXiv 2602.19870, CVPR 2026), as the released code behaves at its LLaVA seam before the projector.
For tokens X [N, D], M basis tokens and K slots:

    S = M farthest points of X (squared L2, raw features)                            [M, D]
    A = argmin |X - A S|^2 + ridge |A|^2 = X S^T (S S^T + ridge I)^-1                 [N, M]
    e = |x - a S|_2, row by row                                                      [N]
    P = top K of e; the K slots, in spatial order
    the M lowest-error slots of P hold the basis tokens: S, in the order picked, from the first such slot to the last
    every token outside P goes to the most cosine-similar of the other K - M slots, each of which becomes a plain mean

So a basis slot inherits the position of the token it overwrote, not the basis token's own. It has size 1 and no
members: the token it overwrote is lost (assignment -1), and the basis token's own position is, unless in P, merged like
any other. Sizes sum to N, and every other slot's size is the number of tokens assigned to it.

Parameters beyond the released LLaVA code: `basis_slots` "blend" writes (S + old) / 2, as the released Qwen code does
(the old token still has assignment -1: it has no slot of its own); "none" has no basis slots, so all K take part in
the merge, as in the released Video-LLaVA code (which then appends the basis). Without `merge` the tokens outside P are
lost. `start`: the released code starts at a random token. Domain: K tokens; K > M unless `basis_slots` is "none"; K = N
is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.farthest import Start, emit_farthest, farthest_points
from .blocks.replay import Replay, nearest_regret, top_k_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

# Gram-Schmidt passes over a row: one loses orthogonality if rows are similar, two do not (Kahan: twice is enough).
_PASSES = 2
_NOT_KEPT = -2.0


@compressor(
    "apet",
    family="algebraic",
    modalities=("image", "video"),
    merges=True,
    source="ApET, arXiv 2602.19870",
    summary="keeps the tokens with the largest error in a farthest-point basis, merges the others into them by cosine",
    plugin=True,
)
@dataclass(frozen=True)
class Apet:
    """Parameters of ApET.

    Attributes:
        basis: M, number of basis tokens.
        merge: whether tokens outside the top K are merged into it, or lost.
        basis_slots: what the M lowest-error slots hold: the basis token, half basis and half old token, or their own
            token.
        start: the token at which farthest-point sampling starts.
        ridge: added to the diagonal of the Gram matrix of the basis.
    """

    basis: int = 10
    merge: bool = True
    basis_slots: Literal["overwrite", "blend", "none"] = "overwrite"
    start: Start = "first"
    ridge: float = 1e-5

    examples = (
        Example(Case(13, 5, 4), basis=3),
        Example(Case(13, 5, 4), basis=3, basis_slots="none"),
        Example(Case(13, 5, 4), basis=3, basis_slots="blend", start="max_norm"),
        Example(Case(13, 5, 4), basis=3, merge=False),
        Example(Case(13, 5, 4), basis=3, merge=False, basis_slots="none"),
    )

    def __post_init__(self) -> None:
        if self.basis < 1:
            raise RequestError(f"basis {self.basis} is not positive", where="method 'apet'", fix="Use --set basis=10.")
        if not 1e-9 <= self.ridge <= 1e9:
            raise RequestError(
                f"ridge {self.ridge} is outside 1e-9..1e9",
                where="method 'apet'",
                fix="Use --set ridge=1e-5, as in the released code.",
            )

    def signals(self) -> tuple[str, ...]:
        """None: ApET reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """K > M unless the basis has no slots; M <= N."""
        if self.basis > case.tokens:
            raise RequestError(
                f"basis {self.basis} is more than the {case.tokens} tokens", fix=f"Use --set basis=1 to {case.tokens}."
            )
        if self.basis_slots == "none":
            select.check_keep(case)
        else:
            select.check_keep(case, min(self.basis + 1, case.tokens), f"the basis fills {self.basis} slots")

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above; the solve is in float64, because in float32 it is singular if tokens repeat."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        x = tokens.float()
        basis = farthest_points(x, self.basis, self.start)
        best = select.top_k(self.errors(x, basis), case.keep)
        kept, order = best.sort(dim=1)
        taken = order >= case.keep - (0 if self.basis_slots == "none" else self.basis)
        return self._assemble(tokens, basis, kept, taken, self._cosine(x, kept, taken).argmax(2))

    def errors(self, x: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        """e [B, N] float32 of x [B, N, D] float32 for basis positions [B, M]."""
        import torch

        s, x = select.gather(x, basis).double(), x.double()
        gram = s @ s.mT + self.ridge * torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
        coefficients = torch.linalg.solve(gram, s @ x.mT).mT
        return (x - coefficients @ s).norm(dim=2).float()

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """Check the top K by its errors relative to token norms, then the basis slots in it, then merges by cosine."""
        import torch

        if case.keep == case.tokens:
            return Replay(select.every_token(tokens), torch.zeros(len(tokens), dtype=torch.float64))
        x = tokens.float()
        basis = farthest_points(x, self.basis, self.start)
        errors, norms = self.errors(x, basis), x.norm(dim=2)
        slots = select.slots_of(got.kept_indices, case.tokens)
        regret = top_k_regret(errors, slots >= 0, norms)

        inside, sizes = errors.gather(1, got.kept_indices), norms.gather(1, got.kept_indices)
        taken = got.assignment.gather(1, got.kept_indices) < 0
        if (taken.sum(1) != (0 if self.basis_slots == "none" else self.basis)).any():
            return Replay(self.reference(case, tokens), torch.full_like(regret, torch.inf))
        regret = torch.maximum(regret, top_k_regret(inside, ~taken, sizes))

        if self.merge:
            cosine = self._cosine(x, got.kept_indices, taken)
            chosen = torch.where(slots >= 0, cosine.argmax(2), got.assignment)
            regret = torch.maximum(regret, nearest_regret(-cosine, chosen, 1.0))
        return Replay(self._assemble(tokens, basis, got.kept_indices, taken, got.assignment.clamp(min=0)), regret)

    def _cosine(self, x: torch.Tensor, kept: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """Cosine [B, N, K] of every token to every slot's token, lowest for the slots of the basis."""
        from torch.nn.functional import normalize

        unit = normalize(x, dim=2)
        return (unit @ select.gather(unit, kept).mT).masked_fill(taken[:, None], select.LOWEST)

    def _assemble(
        self, tokens: torch.Tensor, basis: torch.Tensor, kept: torch.Tensor, taken: torch.Tensor, target: torch.Tensor
    ) -> Compressed[torch.Tensor]:
        """The K slots [B, K] at `kept`, of which the basis fills `taken`; lost tokens merge into target [B, N]."""
        x = tokens.float()
        slots = select.slots_of(kept, x.shape[1])
        content, sizes = select.gather(x, kept), kept.new_ones(kept.shape).float()
        if self.merge:
            out = (slots < 0).float()
            sizes = sizes.scatter_add(1, target, out)
            content = content.scatter_add(1, target[..., None].expand_as(x), x * out[..., None]) / sizes[..., None]
            slots = slots.where(slots >= 0, target)
        if self.basis_slots != "none":
            rows = select.gather(x, basis).flatten(0, 1)
            content[taken] = rows if self.basis_slots == "overwrite" else (content[taken] + rows) / 2
            slots = slots.scatter(1, kept, slots.gather(1, kept).masked_fill(taken, -1))
        return Compressed(content.to(tokens.dtype), kept, sizes, slots)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Unrolled: farthest points, Gram-Schmidt on the basis only, one top-K, one cosine MatMul, one merge MatMul."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        picks, basis, _ = emit_farthest(b, x, n, self.basis, self.start)
        _, best = select.emit_top_k(b, self._emit_errors(b, x, basis, case.dim), k, n)
        kept, order = select.emit_sort(b, best, k)

        slots, taken, source = select.emit_iota(b, 1, k), None, None
        if self.basis_slots != "none":
            taken = b.op("GreaterOrEqual", b.cast(order, "float32"), float(k - self.basis))
            source = self._emit_source(b, kept, best, picks, k)
            slots = b.op("Where", taken, -1.0, slots)
        assignment = select.emit_slots(b, kept, n, slots, absent=_NOT_KEPT)
        if self.merge:
            nearest = self._emit_nearest(b, x, kept, best, k)
            assignment = b.op("Where", b.op("Greater", assignment, _NOT_KEPT), assignment, nearest)
            content, sizes = self._emit_merged(b, x, kept, assignment, taken, source, n, k)
        else:
            assignment = b.op("Max", assignment, -1.0)
            content, sizes = self._emit_lossy(b, x, kept, taken, source, k)
        index = b.cast(kept, "int64")
        return Compressed(select.emit_like(b, content, case), index, sizes, b.cast(assignment, "int64"))

    def _emit_nearest(self, b: Builder, x: ir.Value, kept: ir.Value, best: ir.Value, k: int) -> ir.Value:
        """The slot [B, N] float32 of the merge target most cosine-similar to each token."""
        count = k if self.basis_slots == "none" else k - self.basis
        targets, _ = select.emit_sort(b, b.op("Slice", best, [0], [count], [1]), count)
        content = select.emit_gather(b, x, b.cast(targets, "int64"))
        length = b.op("Sqrt", select.emit_square_sum(b, content, keepdims=True))
        # A token's own norm does not change which target is nearest, so only the targets are normalised.
        unit = b.op("Transpose", b.op("Div", content, b.op("Max", length, 1e-12)), perm=[0, 2, 1])
        nearest = select.emit_argmax(b, b.op("MatMul", x, unit), 2, (1, 1, count))
        slots = _emit_look_up(b, targets, kept, select.emit_iota(b, 1, 1, k))
        return b.op("GatherElements", slots, b.cast(b.op("Squeeze", nearest, [2]), "int64"), axis=1)

    def _emit_merged(
        self,
        b: Builder,
        x: ir.Value,
        kept: ir.Value,
        assignment: ir.Value,
        taken: ir.Value | None,
        source: ir.Value | None,
        n: int,
        k: int,
    ) -> tuple[ir.Value, ir.Value]:
        """Content [B, K, D] and sizes [B, K]: means by slot and basis tokens, in one MatMul."""
        members, count = select.emit_members(b, assignment, k)
        sizes = b.op("Max", count, 1.0)
        weights = b.op("Div", members, sizes)
        if taken is not None and source is not None:
            rows = _emit_one_hot(b, source, n)
            if self.basis_slots == "blend":
                old = _emit_one_hot(b, b.op("Where", taken, kept, -1.0), n)
                rows = b.op("Mul", b.op("Add", rows, old), 0.5)
            weights = b.op("Add", weights, rows)
        return b.op("MatMul", weights, x), b.op("Squeeze", sizes, [2])

    def _emit_lossy(
        self, b: Builder, x: ir.Value, kept: ir.Value, taken: ir.Value | None, source: ir.Value | None, k: int
    ) -> tuple[ir.Value, ir.Value]:
        """Content [B, K, D] and sizes [B, K] without a merge: gathers only."""
        sizes = select.emit_rows(b, x, np.ones(k, np.float32))
        taken_from = kept if taken is None else b.op("Where", taken, source, kept)
        content = select.emit_gather(b, x, b.cast(taken_from, "int64"))
        if self.basis_slots == "blend":
            old = select.emit_gather(b, x, b.cast(kept, "int64"))
            content = b.op("Mul", b.op("Add", content, old), 0.5)
        return content, sizes

    def _emit_errors(self, b: Builder, x: ir.Value, basis: ir.Value, dim: int) -> ir.Value:
        """e [B, N]: ridge least squares as plain least squares with zeros appended to x and sqrt(ridge) I to S.

        The basis is orthonormalised row by row, and all tokens are projected at once. The zeros appended to x are
        multiplied only with the appended columns of the orthonormal rows, so neither has to be stored. A row that
        repeats others keeps its own sqrt(ridge), so none vanishes.

        Limit of float32, measured as the largest error of e in units of the token's norm: 2e-6 at norms of 1e2; if
        all long basis tokens lie on one line or plane, 3e-4 at norms of 1e3 and 3e-2 at 1e4.
        """
        ridge = np.eye(self.basis, dtype=np.float32) * np.float32(self.ridge**0.5)
        extended = b.op("Concat", basis, select.emit_rows(b, basis, ridge), axis=2)
        q = qt = None
        for j in range(self.basis):
            rest = b.op("Slice", extended, [j], [j + 1], [1])
            for _ in range(_PASSES if q is not None else 0):
                rest = b.op("Sub", rest, b.op("MatMul", b.op("MatMul", rest, qt), q))
            unit = b.op("Div", rest, b.op("ReduceL2", rest, [2], keepdims=1))
            q = unit if q is None else b.op("Concat", q, unit, axis=1)
            qt = b.op("Transpose", q, perm=[0, 2, 1])
        q = b.op("Slice", q, [0], [dim], [2])
        explained = b.op("MatMul", b.op("MatMul", x, b.op("Transpose", q, perm=[0, 2, 1])), q)
        return b.op("Sqrt", select.emit_square_sum(b, b.op("Sub", x, explained), keepdims=False))

    def _emit_source(self, b: Builder, kept: ir.Value, best: ir.Value, picks: ir.Value, k: int) -> ir.Value:
        """The basis position [B, K] float32 that each basis slot holds, -1 for the other slots."""
        positions, _ = select.emit_sort(b, b.op("Slice", best, [k - self.basis], [k], [1]), self.basis)
        return _emit_look_up(b, kept, positions, b.op("Unsqueeze", picks, [1]))


def _emit_look_up(b: Builder, keys: ir.Value, known: ir.Value, values: ir.Value) -> ir.Value:
    """values [1 or B, 1, M] of known [B, M] at each of keys [B, L], all float32: [B, L]; -1 where a key is unknown."""
    here = b.op("Equal", b.op("Unsqueeze", keys, [2]), b.op("Unsqueeze", known, [1]))
    return b.op("ReduceMax", b.op("Where", here, values, -1.0), [2], keepdims=0)


def _emit_one_hot(b: Builder, index: ir.Value, n: int) -> ir.Value:
    """One-hot rows [B, K, n] float32 of index [B, K] float32; -1 becomes a row of zeros."""
    return b.cast(b.op("Equal", b.op("Unsqueeze", index, [2]), select.emit_iota(b, 1, 1, n)), "float32")
