"""Duplicates in a score table: found by equal bytes, equal pixels, perceptual hashes and near embeddings.

A method (`method`, and the files of `methods`) says to which buckets a row goes, so that rows that are alike meet in one, and
compares the rows of a bucket. Of each row it keeps one edge at most: to the best row that is better and alike (`edges`). A row
with an edge is a duplicate. Edges lead upwards only, so they make trees: a tree is a group (`groups`), and its root, found by
following the edges in rounds (`roots`), is its best row.
"""
