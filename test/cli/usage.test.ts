import assert from "node:assert/strict";
import { test } from "node:test";

import { commandNamed, COMMANDS } from "../../src/cli/commands.js";
import { packageVersion } from "../../src/host/package.js";
import { envelopeOf, smolvm, startSmolvm } from "./smolvm.js";

test("--version prints the package's version to stdout", async () => {
  const { status, stdout, stderr } = await smolvm(["--version"]);
  assert.equal(status, 0);
  assert.equal(stdout.toString(), `${packageVersion()}\n`);
  assert.equal(stderr, "");
});

test("--help lists every command with its summary", async () => {
  const { status, stdout } = await smolvm(["--help"]);
  assert.equal(status, 0);
  const text = stdout.toString();
  for (const name of Object.keys(COMMANDS)) assert.match(text, new RegExp(`^  ${name} +[A-Z]`, "m"));
});

test("every command explains itself: usage, each option, no line over 80 columns", async () => {
  for (const name of Object.keys(COMMANDS)) {
    const { status, stdout } = await smolvm([...name.split(" "), "--help"]);
    const text = stdout.toString();
    assert.equal(status, 0, name);
    assert.match(text, new RegExp(`^Usage: smolvm ${name}`, "m"));
    const command = await commandNamed(name);
    for (const option of Object.keys(command.options ?? {}))
      assert.ok(text.includes(`--${option}`), `${name} ${option}`);
    for (const line of text.split("\n")) assert.ok(line.length <= 80, `${name}: ${line}`);
  }
});

test("'help image pull' and 'image pull --help' are the same text", async () => {
  const [words, option] = await Promise.all([smolvm(["help", "image", "pull"]), smolvm(["image", "pull", "--help"])]);
  assert.equal(words.stdout.toString(), option.stdout.toString());
  assert.match(words.stdout.toString(), /accept-new/);
});

test("an unknown command is a usage error that proposes the nearest one", async () => {
  const { status, stdout, stderr } = await smolvm(["imgae", "ls"]);
  assert.equal(status, 2);
  assert.equal(stdout.length, 0);
  assert.equal(stderr, "smolvm: Unknown command: 'smolvm imgae'.\nhint: Did you mean 'smolvm image'?\n");
});

test("a misspelt word of a group proposes the whole command", async () => {
  const { status, stderr } = await smolvm(["image", "pul", "hello"]);
  assert.equal(status, 2);
  assert.match(stderr, /Did you mean 'smolvm image pull'\?/);
});

test("what other tools call a command proposes it, and nonsense proposes nothing", async () => {
  const proposed: readonly (readonly [string, string])[] = [
    ["list", "Did you mean 'smolvm ls'?"],
    ["ps", "Did you mean 'smolvm ls'?"],
    ["delete", "Did you mean 'smolvm rm'?"],
    ["remove", "Did you mean 'smolvm rm'?"],
    ["pull", "Did you mean 'smolvm image pull'?"],
    ["images", "Did you mean 'smolvm image ls'?"],
    ["ssh", "Did you mean 'smolvm shell'?"],
    ["image list", "Did you mean 'smolvm image ls'?"],
    ["image remove", "Did you mean 'smolvm image rm'?"],
    ["image foo", "See: smolvm image --help"],
    ["foo", "See: smolvm --help"],
    ["constructor", "See: smolvm --help"],
  ];
  for (const [words, hint] of proposed) {
    const { status, stderr } = await smolvm(words.split(" "));
    assert.equal(status, 2);
    assert.equal(stderr, `smolvm: Unknown command: 'smolvm ${words}'.\nhint: ${hint}\n`);
  }
});

test("an option that other tools have says what does it here", async () => {
  for (const [args, hint] of [
    [["run", "-d", "true"], /hint: A machine that stays is made with: smolvm create/],
    [["exec", "-d", "box", "true"], /hint: The machine's shell leaves a command running: smolvm exec/],
    [["ls", "--all"], /hint: Those that are stopped are listed, too/],
  ] as const) {
    const { status, stderr } = await smolvm(args);
    assert.equal(status, 2);
    assert.match(stderr, hint);
  }
});

test("an unknown option names itself and the nearest one", async () => {
  const { status, stderr } = await smolvm(["image", "ls", "--regsitry=x"]);
  assert.equal(status, 2);
  assert.equal(stderr, "smolvm: Unknown option: '--regsitry'.\nhint: Did you mean '--registry'?\n");
});

test("what every object of JavaScript has is no option", async () => {
  for (const name of ["constructor", "toString", "valueOf", "__proto__", "hasOwnProperty"]) {
    for (const option of [`--${name}`, `--${name}=3`]) {
      const { status, stderr } = await smolvm(["completion", "bash", option]);
      assert.equal(status, 2, option);
      assert.equal(stderr, `smolvm: Unknown option: '--${name}'.\nhint: See: smolvm completion --help\n`);
    }
  }
});

test("what can be wrong in the arguments is said with the value, before anything is done", async () => {
  const wrong: readonly (readonly [readonly string[], RegExp])[] = [
    [[], /No command is given/],
    [["image"], /'smolvm image' needs a command/],
    [["image", "pull"], /NAME is missing/],
    [["image", "inspect", "a", "b"], /'b' is one argument too many/],
    [["run"], /COMMAND is missing/],
    [["run", "--image"], /'--image' needs a value: --image NAME/],
    [["run", "--image", "--cpus", "2", "true"], /'--image' needs a value/],
    [["run", "--rm=yes", "true"], /'--rm' takes no value/],
    [["run", "--cpus", "two", "true"], /--cpus: 'two' is not a whole number/],
    [["run", "--memory", "2x", "true"], /--memory: '2x' is not a number of MiB/],
    [["run", "--timeout", "soon", "true"], /--timeout: 'soon' is not a time/],
    [["run", "--timeout", "0", "true"], /--timeout: '0' is not a time/],
    [["run", "--network", "lan", "true"], /--network: 'lan' is not one of restricted, open, none/],
    [["run", "-p", "0:80", "true"], /--publish: '0:80' is not HOST:GUEST/],
    [["run", "-e", "1=2", "true"], /--env: '1=2' is not NAME=VALUE/],
    [["run", "-v", "here:there", "true"], /--volume: 'here:there' is not HOST:GUEST/],
    [["run", "-v", "/not/here:/there", "true"], /--volume: there is no '\/not\/here' here/],
    [["run", "--tty", "--json", "true"], /--tty and --json do not go together/],
    [["logs", "--tail", "some", "box"], /--tail: 'some' is not a whole number/],
    [["cp", "box:job", "."], /must be absolute, and that of 'box:job' is not\.\nhint: .*: box:\/job$/m],
    [["cp", "-", "box:x"], /must be absolute, and that of 'box:x' is not/],
    [["cp", "a", "b"], /Exactly one of FROM and TO must be in a machine/],
    [["cp", "box:/a", "-", "--json"], /With --json stdout has no place for a file/],
    [["run", "-it", "true"], /--tty with --interactive needs a terminal, and stdin is none/],
    [["run", "--network", "none", "-p", "8080:80", "true"], /--publish and --network none do not go together/],
    [["create", "--network=none", "-p", "80"], /--publish and --network none do not go together/],
    [["create", "-p", "8080:80", "-p", "8080:81"], /--publish has port 8080 of 127\.0\.0\.1 twice/],
  ];
  for (const [args, message] of wrong) {
    const { status, stdout, stderr } = await smolvm(args);
    assert.equal(status, 2, args.join(" "));
    assert.equal(stdout.length, args.includes("--json") ? stdout.length : 0);
    assert.match(stderr, message);
  }
});

test("--json makes of a usage error one envelope on stdout", async () => {
  const ran = await smolvm(["image", "ls", "--nope", "--json"]);
  assert.equal(ran.status, 2);
  assert.deepEqual(envelopeOf(ran), {
    ok: false,
    command: "image ls",
    exitCode: 2,
    data: null,
    error: {
      code: "USAGE",
      message: "Unknown option: '--nope'.",
      hint: "See: smolvm image ls --help",
      details: { option: "--nope" },
    },
  });
});

test("--json before the command holds for it", async () => {
  const ran = await smolvm(["--json", "--version"]);
  const envelope = envelopeOf(ran);
  assert.deepEqual([envelope.ok, envelope.command, envelope.exitCode, envelope.error], [true, "version", 0, null]);
  assert.deepEqual(envelope.data, { version: packageVersion(), node: process.versions.node });
});

test("options behind the guest's command are the guest's", async () => {
  // --cpus is wrong, so nothing is started: the point is which words were read as options of smolvm.
  const own = await smolvm(["run", "--cpus", "x", "--", "echo", "--json"]);
  assert.equal(own.stdout.length, 0);
  const ours = await smolvm(["run", "--cpus", "x", "--json", "echo"]);
  assert.equal(envelopeOf(ours).error?.code, "USAGE");
});

test("a closed stdout ends the program without a word, with the status that a shell gives for SIGPIPE", async () => {
  const child = startSmolvm(["--help"]);
  child.stdout.destroy();
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const status = await new Promise((resolve) => child.once("close", resolve));
  assert.equal(stderr, "");
  assert.equal(status, 141);
});
