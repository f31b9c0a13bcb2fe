// Writes what a tar archive holds as an ext4 file system: the path of the archive and that of the image are the arguments.
import { open } from "node:fs/promises";

import { Ext4Writer } from "../../src/build/ext4/index.js";
import { SparseFile } from "../../src/build/sparse-file.js";
import { readTar } from "../../src/build/tar.js";

const [archive = "", image = ""] = process.argv.slice(2);
const handle = await open(image, "wx");
const file = new SparseFile(handle);
const writer = new Ext4Writer(file);
for await (const entry of readTar(chunksOf(archive))) {
  if (entry.type === "file") await writer.file(entry.path, entry, entry.content);
  else if (entry.type === "directory") writer.directory(entry.path, entry);
}
const { size } = await writer.finish();
await file.finish(size);
await handle.close();

/** The file in pieces of one buffer: the writer has taken a piece before it asks for the next. */
async function* chunksOf(path: string): AsyncGenerator<Buffer> {
  const source = await open(path);
  try {
    const buffer = Buffer.allocUnsafeSlow(256 * 1024);
    for (;;) {
      const { bytesRead } = await source.read(buffer, 0, buffer.length, null);
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await source.close();
  }
}
