// Starts a web server in a machine and talks to it through a port of this host.
import { SmolVM } from "smolvm";

const vm = await SmolVM.create();
try {
  await vm.files.mkdir("/www");
  await vm.files.writeFile("/www/index.html", "Hello from the machine\n");
  await vm.run(["httpd", "-p", "8080", "-h", "/www"]);

  const port = await vm.exposeLocal(8080);
  const answer = await fetch(`http://127.0.0.1:${port}/`);
  console.log(answer.status, (await answer.text()).trim());
} finally {
  await vm.delete();
}
