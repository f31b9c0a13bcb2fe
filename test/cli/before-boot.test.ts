import assert from "node:assert/strict";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";

import { homeWithDamaged } from "./damaged-default.js";
import { serveImages } from "./registry.js";
import { envelopeOf, smolvm, temporaryFolder } from "./smolvm.js";

/* What is found before an image is fetched or a machine boots. */

test("a published port that is taken is named before anything is fetched or made", async (context) => {
  const server = createServer().listen(0, "127.0.0.1");
  context.after(() => server.close());
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const { env, folder, requests } = await serveImages(context);
  for (const [args, status] of [
    [["run", "--image", "one", "-p", `${port}:80`, "--json", "--", "true"], 125],
    [["create", "--image", "one", "-p", `${port}:80`, "--json"], 1],
  ] as const) {
    const ran = await smolvm(args, { env });
    assert.equal(ran.status, status, ran.stderr);
    const { error } = envelopeOf(ran);
    assert.equal(error?.code, "HOST_PORT_IN_USE");
    assert.equal(error.message, `Port ${port} of 127.0.0.1 is in use.`);
    assert.match(error.hint ?? "", /leave the host's port out/);
  }
  assert.deepEqual(requests, []);
  assert.deepEqual(await readdir(join(folder, "home")).catch(() => []), []);
});

test("an option out of range is told by the option's name, in its unit", async (context) => {
  const { env } = await serveImages(context);
  const wrong: readonly (readonly [readonly string[], RegExp])[] = [
    [["--cpus", "99"], /^smolvm: --cpus is 99; allowed is a whole number from 1 to 32\.$/m],
    [["--memory", "64g"], /^smolvm: --memory is 65536 MiB; allowed is a whole number from 128 to 16384\.$/m],
    [["--disk", "0"], /^smolvm: --disk is 0 MiB; allowed is/m],
    [["--name", "Bad Name"], /^smolvm: --name is 'Bad Name'; allowed is 1 to 64 of/m],
  ];
  for (const [options, message] of wrong) {
    const { status, stderr } = await smolvm(["run", "--image", "one", ...options, "--", "true"], { env });
    assert.equal(status, 2, stderr);
    assert.match(stderr, message);
    assert.ok(!/vcpuCount|memSizeMib|diskSizeMib|vmId/.test(stderr), stderr);
  }
  const json = envelopeOf(await smolvm(["create", "--image", "one", "--cpus", "99", "--json"], { env }));
  assert.deepEqual([json.error?.details["field"], json.error?.details["option"]], ["vcpuCount", "--cpus"]);
  const argument = await smolvm(["exec", "Bad Name", "true"], { env });
  assert.match(argument.stderr, /^smolvm: MACHINE is 'Bad Name'; allowed is 1 to 64 of/m);
});

test("--offline asks no network for an image, and says what would get it", async (context) => {
  const { env, registry, requests } = await serveImages(context);
  const ran = await smolvm(["run", "--offline", "--json", "--registry", registry, "--image", "one", "true"], { env });
  assert.equal(ran.status, 125);
  const { error } = envelopeOf(ran);
  assert.equal(error?.code, "IMAGE_NOT_CACHED");
  assert.equal(error.message, "Image 'one' is not here, and --offline keeps it from being fetched.");
  assert.equal(error.hint, `Get it while there is a network: smolvm image pull --registry ${registry} one`);
  const unknown = await smolvm(["create", "--offline", "--image", "three"], { env });
  assert.match(unknown.stderr, /Unknown image: 'three'\. Available images: one, two/);
  assert.deepEqual(requests, []);
});

test("--offline makes no default image, which takes packages from the network", async (context) => {
  const folder = await temporaryFolder(context);
  const ran = await smolvm(["create", "--offline", "--json"], { env: { SMOLVM_HOME: folder } });
  assert.equal(ran.status, 1);
  assert.equal(envelopeOf(ran).error?.code, "IMAGE_NOT_CACHED");
  assert.equal(envelopeOf(ran).error?.hint, "Get it while there is a network: smolvm image pull default");
});

test("--offline makes no default image anew either, where the one that is here is damaged", async (context) => {
  const { env, calls } = await homeWithDamaged(await temporaryFolder(context), "default");
  for (const args of [["--offline"], ["--offline", "--image", "default"]]) {
    const { error } = envelopeOf(await smolvm(["run", ...args, "--json", "true"], { env }));
    assert.equal(error?.code, "IMAGE_NOT_CACHED");
    assert.equal(error.hint, "Get it while there is a network: smolvm image pull default");
    assert.deepEqual(await calls(), []);
  }
  const online = envelopeOf(await smolvm(["run", "--json", "true"], { env }));
  assert.equal(online.error?.code, "IMAGE_BUILD_FAILED");
  assert.notDeepEqual(await calls(), [], "it would have been made with these programs");
});

test("with --offline an image that is here needs no registry", async (context) => {
  const { env } = await serveImages(context);
  assert.equal((await smolvm(["image", "pull", "one"], { env })).status, 0);
  const address = ["--registry", "http://127.0.0.1:1/registry.json"];
  // Its kernel is noise: that a machine could not be made of it shows that the image was found.
  const found = envelopeOf(await smolvm(["run", "--offline", ...address, "--image", "one", "--json", "true"], { env }));
  assert.equal(found.error?.code, "IMAGE_INVALID");
  const missing = envelopeOf(
    await smolvm(["run", "--offline", ...address, "--image", "two", "--json", "true"], { env }),
  );
  assert.equal(missing.error?.code, "IMAGE_NOT_CACHED");
  const online = envelopeOf(await smolvm(["run", ...address, "--image", "one", "--json", "true"], { env }));
  assert.equal(online.error?.code, "IMAGE_DOWNLOAD_FAILED");
  assert.match(online.error.hint ?? "", /add --offline/);
});
