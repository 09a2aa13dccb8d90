"""Edges, their roots found in rounds, and the groups that they make."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_curate.duplicates.candidates import FOREIGN, by_part, ids_of, part_of, places_of
from beam_curate.duplicates.edges import EDGE, best_edges
from beam_curate.duplicates.groups import GroupCounts, complete_groups, with_roots
from beam_curate.duplicates.roots import UnfinishedError, finished, first_pointers, follow, send


def edges_of(tree, part_rows=4):
    """Edges from rows to better ones, numbers both, of which so many make a part; a lower number is better."""
    edges = np.zeros(len(tree), EDGE)
    for place, (row, of) in enumerate(sorted(tree.items())):
        edges[place] = (_id(row, part_rows), 10**6 - row, _id(of, part_rows), 10**6 - of, 3, 0.99)
    return edges


def _id(row, part_rows):
    return (row // part_rows << 32) + row % part_rows


def roots(edges, rounds=12):
    """What the pipeline does: parts send to each other."""
    sent = list(send(first_pointers(edges)))
    for _ in range(rounds):
        sent = [one for received in _received(sent).values() for one in send(follow(received))]
    done = [finished(received) for received in _received(sent).values()]
    return np.sort(np.concatenate([first_pointers(edges[:0]), *done]), order="row")


def _received(sent):
    found = defaultdict(list)
    for part, pointers in sent:
        found[part].append(pointers)
    return {part: np.concatenate(pointers) for part, pointers in found.items()}


def members_of(edges):
    members = with_roots(best_edges(edges), roots(best_edges(edges)))
    found = [complete_groups(some) for _, some in by_part(members, "group")]
    counts = GroupCounts.sum(counts for _, counts in found)
    return np.sort(np.concatenate([members[:0], *(some for some, _ in found)]), order="row"), counts


def test_an_id_tells_shard_and_index():
    ids = ids_of(7, np.array([0, 3, 2**31 - 1], np.int32)) | FOREIGN
    shards, index = places_of(ids)
    assert shards.tolist() == [7, 7, 7]
    assert index.tolist() == [0, 3, 2**31 - 1]
    assert part_of(ids).tolist() == [7 | 1 << 30] * 3


def test_the_surest_method_counts_then_the_best_partner():
    edges = np.array(
        [(5, 1, 1, 9, 3, 0.999), (5, 1, 2, 8, 0, 1.0), (6, 1, 2, 8, 3, 0.999), (6, 1, 1, 9, 3, 0.98), (6, 1, 3, 9, 3, 0.98)], EDGE
    )  # fmt: skip
    assert best_edges(edges)[["row", "of"]].tolist() == [(5, 2), (6, 1)]
    assert np.array_equal(best_edges(best_edges(edges)), best_edges(edges[::-1]))


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.integers(1, 60), st.floats(0, 0.999), max_size=60), st.integers(1, 7))
def test_roots_are_where_the_edges_end(drawn, part_rows):
    tree = {row: int(part * row) for row, part in drawn.items()}
    edges = edges_of(tree, part_rows)

    def root(row):
        while row in tree:
            row = tree[row]
        return row

    found = roots(edges)
    assert found[["row", "to"]].tolist() == sorted((_id(row, part_rows), _id(root(row), part_rows)) for row in tree)
    members, counts = members_of(edges)
    groups = defaultdict(list)
    for row in {*tree, *tree.values()}:
        groups[root(row)].append(row)
    assert counts.groups == len(groups)
    wanted = [
        (_id(row, part_rows), _id(top, part_rows), sorted(rows).index(row))
        for top, rows in groups.items()
        for row in rows
    ]
    assert members[["row", "group", "place"]].tolist() == sorted(wanted)
    assert [group.size for group in counts.largest] == sorted(map(len, groups.values()), reverse=True)[:12]


@pytest.mark.parametrize(("part_rows", "rounds"), [(1, 10), (1000, 1), (100, 6)])
def test_a_long_chain_takes_the_logarithm_of_its_steps_between_parts(part_rows, rounds):
    edges = edges_of({row: row - 1 for row in range(1, 1000)}, part_rows)
    assert set(roots(edges, rounds)["to"].tolist()) == {0}
    if rounds > 1:
        with pytest.raises(UnfinishedError, match="smaller `eps`"):
            roots(edges, rounds - 2)


def test_samples_of_the_other_dataset_are_no_members():
    edges = np.array([(3, 5, int(FOREIGN) + 2, 2**64 - 1, 0, 1.0)], EDGE)
    members, counts = members_of(edges)
    assert members[["row", "group", "place"]].tolist() == [(3, int(FOREIGN) + 2, 1)]
    assert (counts.groups, counts.largest[0].size, counts.largest[0].root) == (1, 1, int(FOREIGN) + 2)
