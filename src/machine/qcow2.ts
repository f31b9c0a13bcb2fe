/** The format's specification is docs/interop/qcow2.txt of QEMU. */
const CLUSTER_BITS = 16;
const CLUSTER = 1 << CLUSTER_BITS;
/** Each L1 entry stands for one cluster of 8-byte L2 entries. */
const BYTES_PER_L1_ENTRY = (CLUSTER / 8) * CLUSTER;
const REFCOUNT_ORDER = 4; // 16-bit reference counts
const HEADER_LENGTH = 104;

/** One run of bytes of a new file; everything between is zero. */
export interface Piece {
  readonly offset: number;
  readonly bytes: Buffer;
}

/**
 * An empty qcow2 disk of `virtualSize` bytes: a header, one reference count block and an L1 table without entries. It names no
 * backing file: QEMU is given that on its command line, so a path in a file that a guest's disk grows in is never followed.
 */
export function emptyQcow2(virtualSize: number): { readonly pieces: readonly Piece[]; readonly fileSize: number } {
  const l1Entries = Math.max(1, Math.ceil(virtualSize / BYTES_PER_L1_ENTRY));
  const l1Clusters = Math.ceil((l1Entries * 8) / CLUSTER);
  const refcountTable = CLUSTER;
  const refcountBlock = 2 * CLUSTER;
  const l1Table = 3 * CLUSTER;
  const clusters = 3 + l1Clusters;

  const header = Buffer.alloc(HEADER_LENGTH);
  header.write("QFI\xfb", 0, "latin1");
  header.writeUInt32BE(3, 4);
  header.writeUInt32BE(CLUSTER_BITS, 20);
  header.writeBigUInt64BE(BigInt(virtualSize), 24);
  header.writeUInt32BE(l1Entries, 36);
  header.writeBigUInt64BE(BigInt(l1Table), 40);
  header.writeBigUInt64BE(BigInt(refcountTable), 48);
  header.writeUInt32BE(1, 56); // clusters of the reference count table
  header.writeUInt32BE(REFCOUNT_ORDER, 96);
  header.writeUInt32BE(HEADER_LENGTH, 100);

  const table = Buffer.alloc(8);
  table.writeBigUInt64BE(BigInt(refcountBlock));
  const counts = Buffer.alloc(clusters * 2);
  for (let cluster = 0; cluster < clusters; cluster++) counts.writeUInt16BE(1, cluster * 2);

  return {
    pieces: [
      { offset: 0, bytes: header },
      { offset: refcountTable, bytes: table },
      { offset: refcountBlock, bytes: counts },
    ],
    fileSize: clusters * CLUSTER,
  };
}
