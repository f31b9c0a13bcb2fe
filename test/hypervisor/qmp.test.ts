import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { HostError, OperationTimeoutError } from "../../src/errors.js";
import { withQmp } from "../../src/hypervisor/qemu/qmp.js";

/** A monitor that answers as `answer` says, which gets each line that a client sends. */
async function monitor(context: TestContext, answer: (line: string, socket: Socket) => void): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "smolvm-qmp-"));
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    socket.on("error", () => undefined);
    socket.write('{"QMP": {"version": {}, "capabilities": []}}\r\n');
    let rest = "";
    socket.setEncoding("utf8").on("data", (text: string) => {
      rest += text;
      const lines = rest.split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) answer(line, socket);
    });
  });
  await new Promise<void>((resolve) => server.listen(join(folder, "qmp"), resolve));
  context.after(async () => {
    for (const socket of open) socket.destroy();
    server.close();
    await rm(folder, { recursive: true, force: true });
  });
  return folder;
}

interface Command {
  readonly execute: string;
  readonly id: number;
  readonly arguments?: unknown;
}
const parse = (line: string): Command => JSON.parse(line) as Command;
const reply = (socket: Socket, message: unknown): unknown => socket.write(`${JSON.stringify(message)}\r\n`);

test("commands are answered by their ids, with events and strangers in between passed over", async (context) => {
  const folder = await monitor(context, (line, socket) => {
    const { id, execute, arguments: args } = parse(line);
    reply(socket, { event: "STOP", timestamp: {} });
    reply(socket, { return: "not asked for", id: 999 });
    reply(socket, ["no", "object"]);
    reply(socket, { return: { execute, args }, id });
  });
  const answers = await withQmp({ folder, name: "qmp" }, 30_000, (qmp) =>
    Promise.all([qmp.execute("first", { a: 1 }), qmp.execute("second")]),
  );
  assert.deepEqual(answers, [{ execute: "first", args: { a: 1 } }, { execute: "second" }]);
});

test("a refusal is a HostError with QEMU's own words", async (context) => {
  const folder = await monitor(context, (line, socket) => {
    const { id, execute } = parse(line);
    reply(
      socket,
      execute === "quit" ? { id, error: { class: "GenericError", desc: "no such thing" } } : { id, return: {} },
    );
  });
  await assert.rejects(
    withQmp({ folder, name: "qmp" }, 30_000, (qmp) => qmp.execute("quit")),
    (error) => error instanceof HostError && error.message.includes("no such thing"),
  );
});

test("silence, a broken line, an endless line and a closed socket are errors in time", async (context) => {
  const misbehaviours: readonly (readonly [
    string,
    (line: string, socket: Socket) => void,
    new (...args: never[]) => Error,
    timeoutMs: number,
  ])[] = [
    ["silence", () => undefined, OperationTimeoutError, 400],
    // Of these it is told before the time is up: the error of that is another one.
    ["a broken line", (_, socket) => socket.write("{ this is no JSON\n"), HostError, 30_000],
    ["an endless line", (_, socket) => socket.write("x".repeat(2 * 1024 * 1024)), HostError, 30_000],
    ["a closed socket", (_, socket) => socket.end(), HostError, 30_000],
  ];
  for (const [name, behaviour, type, timeoutMs] of misbehaviours) {
    const folder = await monitor(context, behaviour);
    await assert.rejects(
      withQmp({ folder, name: "qmp" }, timeoutMs, (qmp) => qmp.execute("quit")),
      (error) => error instanceof type,
      name,
    );
  }
});

test("a monitor that is not there is a HostError", async () => {
  await assert.rejects(
    withQmp({ folder: tmpdir(), name: "no-monitor-here" }, 30_000, (qmp) => qmp.execute("quit")),
    (error) => error instanceof HostError && (error.cause as NodeJS.ErrnoException).code === "ENOENT",
  );
});
