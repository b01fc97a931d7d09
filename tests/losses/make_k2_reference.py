"""Write tests/losses/k2_reference.npz: inputs, values and gradients of k2's transducer losses on a few small
batches.

It runs where k2 runs, which is not this package's environment (made with Python 3.9, torch 1.12.1, k2
1.23.2):

    python tests/losses/make_k2_reference.py [OUTPUT.npz]

Keys are ``<case>/<name>``; tensors keep k2's own axis order (px_grad is (B, U, T + 1), or (B, U, T) where rnnt_type is
modified; py_grad is (B, U + 1, T)).
"""

import sys
from pathlib import Path

import numpy as np

# name: (B, T, U, V, s_range, lm_only_scale, am_only_scale, delay_penalty, ragged[, rnnt_type])
CASES = {
    "plain": (2, 9, 5, 7, 3, 0.0, 0.0, 0.0, False),
    "scales": (3, 12, 6, 11, 3, 0.25, 0.1, 0.0, True),
    "icefall": (3, 20, 9, 13, 5, 0.25, 0.0, 0.0, True),
    "delay": (2, 14, 8, 9, 4, 0.25, 0.0, 0.03, True),
    "covering": (2, 10, 4, 6, 5, 0.0, 0.2, 0.01, True),
    "narrow": (4, 25, 11, 8, 2, 0.1, 0.1, 0.0, True),
    "short": (2, 4, 4, 5, 2, 0.25, 0.0, 0.0, False),
    "modified": (3, 14, 6, 9, 3, 0.25, 0.1, 0.02, True, "modified"),
    "modified-wide": (2, 8, 5, 7, 6, 0.0, 0.0, 0.0, False, "modified"),
    "modified-narrow": (3, 22, 10, 8, 2, 0.25, 0.0, 0.0, True, "modified"),
}


def main() -> int:
    try:
        import k2
        import torch
    except ImportError as error:
        print(f"{__doc__}\nk2 does not load here: {error}", file=sys.stderr)
        return 2
    if len(sys.argv) > 2 or (len(sys.argv) == 2 and sys.argv[1].startswith("-")):
        print(__doc__)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    output = Path(sys.argv[1]) if len(sys.argv) == 2 else Path(__file__).with_name("k2_reference.npz")
    generator = torch.Generator().manual_seed(20)
    arrays = {"versions": np.array([f"torch {torch.__version__}"])}

    def normal(*shape, scale=1.5):
        return (torch.randn(*shape, generator=generator) * scale).requires_grad_()

    for name, (B, T, U, V, s_range, lm_scale, am_scale, delay, ragged, *rest) in CASES.items():
        rnnt_type = rest[0] if rest else "regular"
        symbols = torch.randint(1, V, (B, U), generator=generator)
        frames = torch.full((B,), T)
        labels = torch.full((B,), U)
        if ragged:
            for b in range(1, B):
                labels[b] = int(torch.randint(1, U + 1, (1,), generator=generator))
                frames[b] = int(torch.randint(int(labels[b]), T + 1, (1,), generator=generator))
        zero = torch.zeros(B, dtype=torch.int64)
        boundary = torch.stack((zero, zero, labels, frames), dim=1)
        am, lm = normal(B, T, V), normal(B, U + 1, V)
        weight = (
            torch.rand(B, generator=generator) + 0.5
        )  # so that gradients of each utterance are told apart

        simple, (px_grad, py_grad) = k2.rnnt_loss_smoothed(
            lm,
            am,
            symbols,
            0,
            lm_only_scale=lm_scale,
            am_only_scale=am_scale,
            boundary=boundary,
            rnnt_type=rnnt_type,
            delay_penalty=delay,
            reduction="none",
            return_grad=True,
        )
        (simple * weight).sum().backward()
        ranges = k2.get_rnnt_prune_ranges(px_grad, py_grad, boundary, s_range)
        am_pruned, lm_pruned = k2.do_rnnt_pruning(am, lm, ranges)
        logits = torch.tanh(am_pruned + lm_pruned).detach() * 3
        logits.requires_grad_()
        pruned = k2.rnnt_loss_pruned(
            logits, symbols, ranges, 0, boundary, rnnt_type=rnnt_type, delay_penalty=delay, reduction="none"
        )
        (pruned * weight).sum().backward()
        joint = (torch.tanh(am.detach().unsqueeze(2) + lm.detach().unsqueeze(1)) * 3).requires_grad_()
        full = k2.rnnt_loss(
            joint, symbols, 0, boundary, rnnt_type=rnnt_type, delay_penalty=delay, reduction="none"
        )
        (full * weight).sum().backward()
        values = {
            "targets": symbols,
            "logit_lengths": frames,
            "target_lengths": labels,
            "am": am,
            "lm": lm,
            "weight": weight,
            "simple": simple,
            "px_grad": px_grad,
            "py_grad": py_grad,
            "am_grad": am.grad,
            "lm_grad": lm.grad,
            "ranges": ranges,
            "pruned": pruned,
            "pruned_grad": logits.grad,
            "full": full,
            "full_grad": joint.grad,
        }
        for key, value in values.items():
            array = value.detach().numpy()
            arrays[f"{name}/{key}"] = array.astype(np.int16) if array.dtype == np.int64 else array
        options = [s_range, lm_scale, am_scale, delay]
        arrays[f"{name}/options"] = np.array(options, dtype=np.float64)
    np.savez_compressed(output, **arrays)
    print(f"{output}: {len(CASES)} cases, {output.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
