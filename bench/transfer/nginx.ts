import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { connect } from "node:net";
import { join } from "node:path";

export interface NginxOptions {
  readonly folder: string;
  readonly address: string;
  readonly tls?: { readonly key: string; readonly cert: string };
  /** The network namespace to run it in. */
  readonly namespace?: string;
  readonly port?: number;
  readonly tlsPort?: number;
}

/** A web server of its own for a benchmark: one worker, sendfile, no log. */
export class Nginx {
  readonly port: number;
  readonly tlsPort: number;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, port: number, tlsPort: number) {
    this.#child = child;
    this.port = port;
    this.tlsPort = tlsPort;
  }

  static async start(options: NginxOptions): Promise<Nginx> {
    const { folder, address, tls, namespace } = options;
    const port = options.port ?? (await freePort());
    const tlsPort = options.tlsPort ?? (await freePort());
    const [key, cert, conf] = [join(folder, "key.pem"), join(folder, "cert.pem"), join(folder, "nginx.conf")];
    if (tls !== undefined) {
      writeFileSync(key, tls.key);
      writeFileSync(cert, tls.cert);
    }
    const secure = `server { listen ${address}:${tlsPort} ssl; ssl_certificate ${cert}; ssl_certificate_key ${key}; root ${folder}/www; }`;
    writeFileSync(
      conf,
      `daemon off; master_process off; pid ${folder}/nginx.pid; error_log ${folder}/nginx.log;
       events { worker_connections 256; }
       http {
         access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
         client_body_temp_path ${folder}; proxy_temp_path ${folder}; fastcgi_temp_path ${folder};
         uwsgi_temp_path ${folder}; scgi_temp_path ${folder};
         server { listen ${address}:${port}; root ${folder}/www; }
         ${tls === undefined ? "" : secure}
       }`,
    );
    const within = namespace === undefined ? [] : ["ip", "netns", "exec", namespace];
    const command = [...within, "nginx", "-c", conf];
    const child = spawn(command[0] ?? "nginx", command.slice(1), { stdio: ["ignore", "ignore", "pipe"] });
    process.once("exit", () => child.kill("SIGKILL"));
    const nginx = new Nginx(child, port, tlsPort);
    if (namespace === undefined) await reachable(address, port);
    return nginx;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.#child.kill("SIGTERM");
    await once(this.#child, "exit");
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function reachable(host: string, port: number): Promise<void> {
  for (let tries = 0; ; tries++) {
    const socket = connect(port, host);
    try {
      await once(socket, "connect");
      return;
    } catch (error) {
      if (tries > 50) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    } finally {
      socket.destroy();
    }
  }
}
