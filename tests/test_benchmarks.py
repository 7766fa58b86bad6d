"""What benchmarks compare is the same thing; the times are theirs to measure."""

import pytest

from benchmarks.sample import WORKLOADS, Workload, nfbench_maf, verify


@pytest.mark.parametrize("workload", WORKLOADS[:2], ids=lambda workload: workload.title)
def test_both_ways_to_sample_give_the_same_by_the_passes_that_are_told(workload: Workload) -> None:
    architecture = (workload.features, workload.layers, workload.hidden)
    n_passes = workload.layers * (workload.features - 1)
    told = verify(workload, nfbench_maf(*architecture).module.eval())
    assert f"the full passes run {n_passes}" in told
