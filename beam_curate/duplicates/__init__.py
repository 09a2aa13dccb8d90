"""Duplicates in a score table: found by equal bytes, equal pixels, perceptual hashes and near embeddings.

All methods work alike, in bounded memory whatever the size of the table. What is compared (a digest, a hash, an embedding) is
read from the table's parts, sorted by bucket and put down in files (`spilling`): rows that could be duplicates share a bucket.
Buckets are then compared one after the other, and each gives edges: a row, and a better one that it is a duplicate of (`edges`).
Edges lead upwards only, so they make trees: a tree is a group, and its root is the row that is kept (`groups`).
"""
