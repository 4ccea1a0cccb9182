"""Header blocks as a peer sends them, made such that they mean the same on any connection.

We offer SETTINGS_HEADER_TABLE_SIZE=0. RFC 9113 section 4.3.1 warns that not every peer follows, so it is judged
block by block: one that names no dynamic entry and adds none is passed on as it came. Others go through a dynamic
table and come out as literals, until the peer has acknowledged our setting and begins a block with the size update
to 0 (RFC 7541 section 4.2) that says it obeys. A peer that never does is simply decoded for ever.
"""

from mypy_extensions import i64

from proxy.http2.limits import HEADER_LIST
from proxy.http2.table import DEFAULT_SIZE, DynamicTable
from proxy.http2.walk import CORRUPT, SOUND, BlockWalk


class BlockReader:
    """One direction of one connection. `walk` says what the last block holds.

    `corrupt` is set for good once a block cannot be decoded: a COMPRESSION_ERROR of the connection.
    """

    def __init__(self) -> None:
        self.walk = BlockWalk()
        self.corrupt = False
        self.acknowledged = False  # the peer has acknowledged our SETTINGS
        self._obeys = False
        self._table: DynamicTable | None = None

    def read(self, block: bytes, kind: i64) -> bytes | None:
        """The block as it can be forwarded, without size updates; None if it is malformed, too long or corrupt."""
        walk = self.walk
        verdict = walk.walk(block, kind)
        if verdict != CORRUPT and walk.size_update >= 0 and not self._resize():
            verdict = CORRUPT
        if verdict != CORRUPT and walk.dynamic | walk.inserts and not self._obeys:
            rewritten = self._stored().rewrite(block, walk.start)
            if rewritten is None:
                verdict = CORRUPT
            else:
                block = rewritten
                verdict = walk.walk(block, kind)
        elif walk.dynamic:
            verdict = CORRUPT
        if verdict == CORRUPT:
            self.corrupt = True
            return None
        if verdict != SOUND or walk.list_size > HEADER_LIST:
            return None
        return block[walk.start :] if walk.start > 0 else block

    def _resize(self) -> bool:
        """Apply the block's size updates; False for one above what we allow. RFC 7541 section 6.3."""
        walk = self.walk
        limit: i64 = 0 if self.acknowledged else DEFAULT_SIZE
        if walk.size_update > limit:
            return False
        if self.acknowledged:
            self._obeys = True
            self._table = None
        else:
            table = self._stored()
            table.resize(walk.size_low)
            table.resize(walk.size_update)
        return True

    def _stored(self) -> DynamicTable:
        if self._table is None:
            self._table = DynamicTable()
        return self._table
