// What the cases share: the database through the test's control address, tokens, and the real socket.io-client.
import { createHmac } from "node:crypto";
import { io } from "socket.io-client";

export const url = process.env.SERVER;
const patience = 10_000;

// control asks the Go test for something: sql, drain, crash, start.
export async function control(path, body = "") {
  const response = await fetch(process.env.CONTROL + path, { method: "POST", body });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path}: ${text}`);
  return JSON.parse(text);
}

// sql`…${value}…` runs one statement and gives its rows.
export function sql(parts, ...values) {
  return control("/sql", String.raw({ raw: parts }, ...values.map(literal)));
}

function literal(value) {
  if (value === null) return "null";
  if (typeof value === "number") return String(value);
  return `'${String(value).replaceAll("'", "''")}'`;
}

export function token(claims, { seconds = 3600, secret = process.env.SECRET } = {}) {
  const now = Math.floor(Date.now() / 1000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const body = `${part({ alg: "HS256", typ: "JWT" })}.${part({ iat: now, exp: now + seconds, ...claims })}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

// organization makes one with a user for each role.
export async function organization(...roles) {
  const [{ id }] = await sql`INSERT INTO organizations (name) VALUES ('wire') RETURNING id`;
  const users = [];
  for (const role of roles) {
    const email = `${role}-${id}-${users.length}@example.org`;
    const [row] = await sql`INSERT INTO users (organization_id, email, role) VALUES (${id}, ${email}, ${role}) RETURNING id`;
    users.push({ id: row.id, email, organizationId: id, token: token({ userId: row.id, organizationId: id }) });
  }
  return { id, users };
}

export async function chat(organizationId, restricted = false) {
  const [{ id }] = await sql`INSERT INTO chats (organization_id, name, restricted) VALUES (${organizationId}, 'wire', ${restricted}) RETURNING id`;
  return id;
}

// Client keeps all it hears, in order, until a case asks for it.
export class Client {
  constructor(t, auth, options = {}) {
    this.heard = [];
    this.waiting = [];
    this.socket = io(url, { transports: ["websocket"], forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 100, auth, ...options });
    for (const name of ["connect", "connect_error", "disconnect"]) {
      this.socket.on(name, (what) => this.hear(name, what));
    }
    this.socket.onAny((name, ...args) => this.hear(name, ...args));
    t.after(() => this.socket.disconnect());
  }

  // live is a client that has its first event.
  static async live(t, user, options) {
    const client = new Client(t, { token: user.token }, options);
    await client.next("connected");
    return client;
  }

  hear(name, body) {
    this.heard.push({ name, body });
    for (const look of [...this.waiting]) look();
  }

  // take removes the first that fits from what was heard.
  take(name, fits = () => true) {
    const i = this.heard.findIndex((h) => h.name === name && fits(h.body));
    return i < 0 ? undefined : this.heard.splice(i, 1)[0];
  }

  // next is the first that fits, heard already or yet to come.
  next(name, fits) {
    return new Promise((resolve, reject) => {
      const look = () => {
        const h = this.take(name, fits);
        if (!h) return;
        this.waiting.splice(this.waiting.indexOf(look), 1);
        clearTimeout(timer);
        resolve(h.body);
      };
      const timer = setTimeout(() => {
        const names = this.heard.map((h) => h.name + " " + JSON.stringify(h.body)).slice(-20);
        reject(new Error(`no ${name}; heard last: ${names.join(", ")}`));
      }, patience);
      this.waiting.push(look);
      look();
    });
  }

  ask(name, ...args) {
    return this.socket.timeout(patience).emitWithAck(name, ...args);
  }

  // silent makes a round trip through the database and through the socket, and fails when the name was heard before its end.
  async silent(user, name, fits) {
    const mark = `mark:${Math.random()}`;
    await sql`SELECT notify_user(${user.id}, ${mark}, '{}')`;
    await this.next(mark);
    await this.ask("presence:list");
    const h = this.take(name, fits);
    if (h) throw new Error(`heard ${name} ${JSON.stringify(h.body)}`);
  }
}
