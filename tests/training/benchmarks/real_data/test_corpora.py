"""The corpora of the benchmark on real data: how groups are chosen."""

from training.benchmarks.real_data.corpora import first_groups


def test_choice_of_groups_is_deterministic():
    groups = [f"v{i % 10}" for i in range(100)]
    chosen = first_groups(groups, 30)
    assert len(chosen) == 3
    assert chosen == first_groups(groups[::-1], 30)
    assert set(chosen) < set(first_groups(groups, 50))
