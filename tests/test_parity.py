"""Every flow of FLOWS has an oracle that is not ours: another library, or a closed form.

The contract, which every flow is held to beside it, is against autograd (test_flows.py,
test_image_flows.py).
"""

import ast
from pathlib import Path

import pytest

from nfbench.flows import FLOWS

HERE = Path(__file__).parent
# The file and the test that compare each one: with another library of the same weights, with a
# closed form, or where no library has it right with the formula, spelled out again.
ORACLES = {
    "identity": ("distributions", "standard_normal_is_that_of_torch"),
    "gaussian": ("distributions", "gaussian_flow_is_the_maximum_likelihood_normal_of_torch"),
    "made": ("peers", "autoregressive_agrees_with_zuko"),
    "made_mog": ("peers", "mixture_base_agrees_with_nflows"),
    "maf": ("peers", "maf_with_batch_norm_agrees_with_nflows"),
    "maf_mog": ("peers", "mixture_base_agrees_with_nflows"),
    "nice": ("peers", "nice_agrees_with_nflows"),
    "iaf": ("peers", "inverse_autoregressive_agrees_with_pyro"),
    "realnvp": ("peers", "realnvp_with_batch_norm_agrees_with_nflows"),
    "realnvp_image": ("realnvp_image", "the_net_is_what_its_layers_make"),
    "glow": ("peers", "glow_agrees_with_nflows"),
    "glow_image": ("peers_images", "multiscale_glow_agrees_with_nflows"),
    "lippe_image": ("lippe", "the_net_is_its_formula"),
    "nsf": ("peers", "neural_spline_flow_agrees_with_nflows"),
    "nsf_image": ("nsf_image", "splines_of_images_are_those_of_their_pixels"),
    "ffjord": ("ode", "a_linear_field_is_a_matrix_exponential"),
    "ffjord_image": ("ffjord", "the_divergence_of_convolutions_is_the_trace_of_the_jacobian"),
    "planar": ("peers_planar", "forward_map_agrees"),
    "radial": ("peers_planar", "forward_map_agrees"),
    # pyro's is wrong (test_peers.py::test_the_sylvester_map_of_pyro_is_no_oracle).
    "sylvester": ("sylvester", "one_layer_is_the_formula"),
}


def test_no_flow_is_forgotten() -> None:
    assert set(ORACLES) == set(FLOWS)


@pytest.mark.parametrize("name", ORACLES)
def test_the_oracle_is_there(name: str) -> None:
    file, test = ORACLES[name]
    tree = ast.parse((HERE / f"test_{file}.py").read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert f"test_{test}" in functions
