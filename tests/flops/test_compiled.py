"""The least time of a compiled program: bytes, FLOPs, loops and collectives of small HLO modules, and of a real one."""

import dataclasses
import gzip
from pathlib import Path

import pytest

from clip_jax.flops.compiled import BANDWIDTH, LAUNCH, LINK, NARROW_PRODUCTS, PRODUCTS, best_case
from clip_jax.flops.devices import device_of
from clip_jax.flops.hlo import parse, replica_group

H100 = device_of("NVIDIA H100 80GB HBM3")
V5E = device_of("TPU v5 lite")
BYTES, WIDE, NARROW = H100.bandwidth * BANDWIDTH, H100.half * PRODUCTS, H100.half * NARROW_PRODUCTS

GEMM = (
    'custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(step)/dot_general"}, '
    'backend_config={"gemm_backend_config":{"beta":0,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],'
    '"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}'
)


def module(*lines, others=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m, is_scheduled=true\n{others}\nENTRY %main (p: f32[]) -> f32[] {{\n{body}\n}}\n"


def product(m, n, k, dtype="bf16"):
    return module(
        f"%a = {dtype}[{m},{k}]{{1,0}} parameter(0)", f"%b = {dtype}[{k},{n}]{{1,0}} parameter(1)",
        f"ROOT %c = ({dtype}[{m},{n}]{{1,0}}, s8[4194304]{{0}}) {GEMM}",
    )  # fmt: skip


def test_product_takes_the_longer_of_its_flops_and_its_bytes():
    large = best_case(product(8192, 8192, 8192), H100)
    assert large.flops == 2 * 8192**3
    assert large.bytes == 3 * 2 * 8192**2  # without the workspace
    assert large.seconds == pytest.approx(2 * 8192**3 / WIDE + LAUNCH)
    flat = best_case(product(65536, 256, 8), H100)
    assert flat.seconds == pytest.approx(2 * (65536 * 256 + 65536 * 8 + 8 * 256) / BYTES + LAUNCH)
    narrow = best_case(product(8192, 126, 65536), H100)
    assert narrow.seconds == pytest.approx(2 * 8192 * 126 * 65536 / NARROW + LAUNCH)
    single = best_case(product(8192, 8192, 8192, "f32"), H100)
    assert single.seconds == pytest.approx(2 * 8192**3 / (H100.single * PRODUCTS) + LAUNCH)


def test_flops_that_the_kernels_lack_are_charged():
    text = product(8192, 8192, 8192).replace("__cublas$lt$matmul", "triton_kernel")
    bare = best_case(text, H100)
    assert bare.flops == 0
    charged = best_case(text, H100, model_flops=2 * 8192**3)
    assert charged.flops == 2 * 8192**3
    assert charged.seconds == pytest.approx(bare.seconds + 2 * 8192**3 / WIDE)
    assert {k.kind for k, _ in charged.kernels} == {"unpriced"}


LOOP = """
%body (t: (s32[], f32[256,1024])) -> (s32[], f32[256,1024]) {
  %t = (s32[], f32[256,1024]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  %x = f32[256,1024]{1,0} get-tuple-element(%t), index=1
  %one = s32[] constant(STEP)
  %next = s32[] add(%n, %one)
  %y = f32[256,1024]{1,0} negate(%x)
  ROOT %r = (s32[], f32[256,1024]{1,0}) tuple(%next, %y)
}

%cond (t: (s32[], f32[256,1024])) -> pred[] {
  %most = s32[] constant(7)
  %u = (s32[], f32[256,1024]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%u), index=0
  ROOT %lt = pred[] compare(%i, %most), direction=LT
}
"""


def looped(config="", step="1", first="constant(2)"):
    return module(
        f"%first = s32[] {first}", "%x = f32[256,1024]{1,0} parameter(0)",
        "%t = (s32[], f32[256,1024]{1,0}) tuple(%first, %x)",
        f"%w = (s32[], f32[256,1024]{{1,0}}) while(%t), condition=%cond, body=%body{config}",
        others=LOOP.replace("STEP", step),
    )  # fmt: skip


def test_loop_runs_as_often_as_noted_or_counted():
    once = 2 * 4 * 256 * 1024
    for text, trips in ((looped(), 5), (looped(', backend_config={"known_trip_count":{"n":"12"}}'), 12)):
        best = best_case(text, H100)
        assert best.bytes == trips * (once + 12)  # and the counter
        (long,) = (k for k, _ in best.kernels if k.name == "y")
        assert long.calls == trips
        assert best.seconds == pytest.approx(trips * ((once + 12) / BYTES + 2 * LAUNCH))


@pytest.mark.parametrize("text", [looped(step="2"), looped(first="parameter(1)")])
def test_loop_of_unknown_length_is_an_error(text):
    with pytest.raises(ValueError, match="the loop w runs an unknown number of times"):
        best_case(text, H100)


def test_fusion_moves_the_slices_and_the_update_alone():
    fused = """
%fused (a: bf16[12,512,256], b: bf16[12,512,256], i: s32[]) -> bf16[12,512,256] {
  %a = bf16[12,512,256]{2,1,0} parameter(0)
  %b = bf16[12,512,256]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  %s = bf16[1,512,256]{2,1,0} dynamic-slice(%b, %i), dynamic_slice_sizes={1,512,256}
  ROOT %u = bf16[12,512,256]{2,1,0} dynamic-update-slice(%a, %s, %i)
}
"""
    call = "fusion(%a, %b, %i), kind=kLoop, calls=%fused"
    text = module(
        "%a = bf16[12,512,256]{2,1,0} parameter(0)", "%b = bf16[12,512,256]{2,1,0} parameter(1)",
        "%i = s32[] parameter(2)", f"ROOT %f = bf16[12,512,256]{{2,1,0}} {call}", others=fused,
    )  # fmt: skip
    best = best_case(text, H100)
    layer = 2 * 512 * 256
    assert best.bytes == 2 * layer + 4  # the slice is read, and written as the update; the counter
    assert [k.kind for k, _ in best.kernels] == ["copies"]


def reduced(sync, between="", groups="{{0,1,2,3,4,5,6,7}}"):
    return module(
        "%x = f32[1024,1024]{1,0} parameter(0)", "%y = f32[8192,8192]{1,0} parameter(1)",
        f"%s = f32[1024,1024]{{1,0}} all-reduce-start(%x), replica_groups={groups}, to_apply=%add, "
        f'backend_config={{"collective_backend_config":{{"is_sync":{sync}}}}}',
        *([between] if between else []), "ROOT %d = f32[1024,1024]{1,0} all-reduce-done(%s)",
    )  # fmt: skip


def test_collective_costs_what_no_kernel_hides():
    sent = 2 * 4 * 1024**2 * 7 / 8
    alone = sent / (H100.link * LINK) + LAUNCH
    bare = best_case(reduced("false"), H100)
    assert (bare.seconds, bare.exposed) == pytest.approx((alone, alone))
    kernel = "%z = f32[8192,8192]{1,0} negate(%y)"
    work = 2 * 4 * 8192**2 / BYTES + LAUNCH
    hidden = best_case(reduced("false", kernel), H100)
    assert (hidden.seconds, hidden.exposed) == pytest.approx((work, 0))
    waits = best_case(reduced("true", kernel), H100)
    assert (waits.seconds, waits.exposed) == pytest.approx((work + alone, alone))
    hosts = best_case(reduced("false"), H100, host_devices=4)
    assert hosts.seconds == pytest.approx(sent / H100.slow_link + LAUNCH)


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("replica_groups={{0,2},{1,3}}, dim", (0, 2)),
        ("replica_groups=[2,4]<=[8], dim", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dim", (0, 4)),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}, dim", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=4,'c'=2] {'c'}, dim", (0, 1)),
    ],
)
def test_replica_group_is_read_in_every_form(groups, first):
    assert replica_group(groups) == first


def test_unreadable_groups_and_text_are_errors():
    with pytest.raises(ValueError, match="groups of a collective"):
        replica_group("replica_groups=mesh['a'=4] {'a':(1)2}")
    with pytest.raises(ValueError, match="no HLO module"):
        parse("nothing")


def test_tpu_time_is_that_of_xlas_cycles_where_the_clock_is_known():
    text = looped().replace("negate(%x)", 'negate(%x), backend_config={"estimated_cycles":"3000"}')
    assert best_case(text, V5E).seconds == pytest.approx(5 * 3000 / 1.5e9)
    assert best_case(text, dataclasses.replace(V5E, clock=None)) is None


def test_compiled_h100_step_holds_attention_collectives_and_all_of_its_flops():
    """Two blocks of each tower, 128 wide, on a mesh of data=2 × fsdp=4; how it was made is in its first line."""
    text = gzip.decompress((Path(__file__).parent / "h100_step.hlo.gz").read_bytes()).decode()
    made, text = text.split("\n", 1)
    work = float(made.split("model FLOPs a device: ")[1])
    best = best_case(text, H100, model_flops=work, host_devices=8)
    kinds = best.by_kind()
    assert "unpriced" not in kinds
    assert kinds["attention"][0] == 2 * 2 * 2  # of two towers, two layers, forward and backward
    assert work < best.flops < 1.2 * work
    assert kinds["collectives"][0] > 10
    assert 0 < best.exposed < best.seconds
    assert best.seconds == pytest.approx(
        sum(row[1] for kind, row in kinds.items() if kind != "collectives") + best.exposed
    )
    lines = best.explain()
    assert 3 < len(lines) <= 5
    assert any("fused attention: 8 kernels" in line for line in lines)
