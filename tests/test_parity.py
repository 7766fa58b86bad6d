"""Every flow of FLOWS has an oracle that is not ours: another library, or a closed form.

The contract, which every flow is held to beside it, is against autograd (test_flows.py,
test_image_flows.py).
"""

import ast
from pathlib import Path

import pytest

from nfbench.flows import FLOWS

HERE = Path(__file__).parent
# Where each one is compared: another library with the same weights, a closed form where no
# library has it right, or the formula spelled out again where none has the flow.
ORACLES = {
    "identity": "test_distributions.py::test_standard_normal_is_that_of_torch",
    "gaussian": "test_distributions.py::test_gaussian_flow_is_the_maximum_likelihood_normal_of_torch",
    "made": "test_peers.py::test_autoregressive_agrees_with_zuko",
    "made_mog": "test_peers.py::test_mixture_base_agrees_with_nflows",
    "maf": "test_peers.py::test_maf_with_batch_norm_agrees_with_nflows",
    "maf_mog": "test_peers.py::test_mixture_base_agrees_with_nflows",
    "nice": "test_peers.py::test_nice_agrees_with_nflows",
    "iaf": "test_peers.py::test_inverse_autoregressive_agrees_with_pyro",
    "realnvp": "test_peers.py::test_realnvp_with_batch_norm_agrees_with_nflows",
    "realnvp_image": "test_realnvp_image.py::test_the_net_is_what_its_layers_make",
    "glow": "test_peers.py::test_glow_agrees_with_nflows",
    "glow_image": "test_peers_images.py::test_multiscale_glow_agrees_with_nflows",
    "lippe_image": "test_lippe.py::test_the_net_is_its_formula",
    "nsf": "test_peers.py::test_neural_spline_flow_agrees_with_nflows",
    "nsf_image": "test_nsf_image.py::test_splines_of_images_are_those_of_their_pixels",
    "ffjord": "test_ode.py::test_a_linear_field_is_a_matrix_exponential",
    "ffjord_image": "test_ffjord.py::test_the_divergence_of_convolutions_is_the_trace_of_the_jacobian",
    "planar": "test_peers_planar.py::test_forward_map_agrees",
    "radial": "test_peers_planar.py::test_forward_map_agrees",
    # pyro's is wrong (test_peers.py::test_the_sylvester_map_of_pyro_is_no_oracle).
    "sylvester": "test_sylvester.py::test_one_layer_is_the_formula",
}


def test_no_flow_is_forgotten() -> None:
    assert set(ORACLES) == set(FLOWS)


@pytest.mark.parametrize("name", ORACLES)
def test_the_oracle_is_there(name: str) -> None:
    file, _, test = ORACLES[name].partition("::")
    tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
