// The 32 cases of the Socket.IO protocol 5 suite, by their names. The server greets a socket with `auth`, answers `message`
// with `message-back` and `message-with-ack` with its arguments, and has the namespaces / and /custom.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  PING_INTERVAL, PING_TIMEOUT, assertOpen, assertRefused, connect, openPolling, poll, post, probe, request, sleep,
} from "./wire.js";

const options = { timeout: 5000 };

/** Opens a WebSocket session and the main namespace on it. */
async function join() {
  const wire = connect();
  await wire.next(); // OPEN
  wire.send("40");
  await wire.nextPacket(); // CONNECT
  await wire.nextPacket(); // auth
  return wire;
}

describe("Engine.IO protocol", () => {
  describe("handshake", () => {
    describe("HTTP long-polling", () => {
      it("should successfully open a session", options, async () => {
        const { status, body } = await request({ EIO: 4, transport: "polling" });
        assert.equal(status, 200);
        assertOpen(body, ["websocket"]);
      });

      it("should fail with an invalid 'EIO' query parameter", options, async () => {
        assert.equal((await request({ transport: "polling" })).status, 400);
        assert.equal((await request({ EIO: "abc", transport: "polling" })).status, 400);
      });

      it("should fail with an invalid 'transport' query parameter", options, async () => {
        assert.equal((await request({ EIO: 4 })).status, 400);
        assert.equal((await request({ EIO: 4, transport: "abc" })).status, 400);
      });

      it("should fail with an invalid request method", options, async () => {
        assert.equal((await request({ EIO: 4, transport: "polling" }, { method: "POST" })).status, 400);
        assert.equal((await request({ EIO: 4, transport: "polling" }, { method: "PUT" })).status, 400);
      });
    });

    describe("WebSocket", () => {
      it("should successfully open a session", options, async () => {
        const wire = connect();
        assertOpen(await wire.next(), []);
        wire.close();
      });

      it("should fail with an invalid 'EIO' query parameter", options, async () => {
        await assertRefused({ transport: "websocket" });
        await assertRefused({ EIO: "abc", transport: "websocket" });
      });

      it("should fail with an invalid 'transport' query parameter", options, async () => {
        await assertRefused({ EIO: 4 });
        await assertRefused({ EIO: 4, transport: "abc" });
      });
    });
  });

  describe("heartbeat", () => {
    describe("HTTP long-polling", () => {
      it("should send ping/pong packets", options, async () => {
        const sid = await openPolling();
        for (let i = 0; i < 3; i++) {
          assert.deepEqual(await poll(sid), { status: 200, body: "2" });
          assert.equal((await post(sid, "3")).status, 200);
        }
      });

      it("should close the session upon ping timeout", options, async () => {
        const sid = await openPolling();
        await sleep(PING_INTERVAL + PING_TIMEOUT + 20);
        assert.equal((await poll(sid)).status, 400);
      });
    });

    describe("WebSocket", () => {
      it("should send ping/pong packets", options, async () => {
        const wire = connect();
        await wire.next();
        for (let i = 0; i < 3; i++) {
          assert.equal(await wire.next(), "2");
          wire.send("3");
        }
        wire.close();
      });

      it("should close the session upon ping timeout", options, async () => {
        await connect().closed;
      });
    });
  });

  describe("close", () => {
    describe("HTTP long-polling", () => {
      it("should forcefully close the session", options, async () => {
        const sid = await openPolling();
        const [ended, closed] = await Promise.all([poll(sid), post(sid, "1")]);
        assert.deepEqual(ended, { status: 200, body: "6" });
        assert.deepEqual(closed, { status: 200, body: "ok" });
        assert.equal((await poll(sid)).status, 400);
      });
    });

    describe("WebSocket", () => {
      it("should forcefully close the session", options, async () => {
        const wire = connect();
        await wire.next();
        wire.send("1");
        await wire.closed;
      });
    });
  });

  describe("upgrade", () => {
    it("should successfully upgrade from HTTP long-polling to WebSocket", options, async () => {
      const sid = await openPolling();
      const wire = await probe(sid);
      wire.send("5");
      wire.send("40");
      assert.match(await wire.nextPacket(), /^40\{"sid":"[^"]+"\}$/);
      wire.close();
    });

    it("should ignore HTTP requests with same sid after upgrade", options, async () => {
      const sid = await openPolling();
      const wire = await probe(sid);
      wire.send("5");
      assert.equal((await poll(sid)).status, 400);
      wire.close();
    });

    it("should ignore WebSocket connection with same sid after upgrade", options, async () => {
      const sid = await openPolling();
      const wire = await probe(sid);
      wire.send("5");
      await connect(sid).closed;
      wire.close();
    });
  });
});

describe("Socket.IO protocol", () => {
  describe("connect", () => {
    async function assertConnects(packet, reply, auth) {
      const wire = connect();
      await wire.next();
      wire.send(packet);
      const answer = await wire.nextPacket();
      assert.ok(answer.startsWith(reply));
      const handshake = JSON.parse(answer.slice(reply.length));
      assert.deepEqual(Object.keys(handshake), ["sid"]);
      assert.equal(typeof handshake.sid, "string");
      assert.equal(await wire.nextPacket(), auth);
      wire.close();
    }

    it("should allow connection to the main namespace", options, () => assertConnects("40", "40", '42["auth",{}]'));

    it("should allow connection to the main namespace with a payload", options, () =>
      assertConnects('40{"token":"123"}', "40", '42["auth",{"token":"123"}]'));

    it("should allow connection to a custom namespace", options, () =>
      assertConnects("40/custom,", "40/custom,", '42/custom,["auth",{}]'));

    it("should allow connection to a custom namespace with a payload", options, () =>
      assertConnects('40/custom,{"token":"abc"}', "40/custom,", '42/custom,["auth",{"token":"abc"}]'));

    it("should disallow connection to an unknown namespace", options, async () => {
      const wire = connect();
      await wire.next();
      wire.send("40/random");
      assert.equal(await wire.nextPacket(), '44/random,{"message":"Invalid namespace"}');
      wire.close();
    });

    it("should disallow connection with an invalid handshake", options, async () => {
      const wire = connect();
      await wire.next();
      wire.send("4abc");
      await wire.closed;
    });

    it("should close the connection if no handshake is received", options, async () => {
      await connect().closed;
    });
  });

  describe("disconnect", () => {
    it("should disconnect from the main namespace", options, async () => {
      const wire = await join();
      wire.send("41");
      assert.equal(await wire.next(), "2");
      wire.close();
    });

    it("should connect then disconnect from a custom namespace", options, async () => {
      const wire = await join();
      assert.equal(await wire.next(), "2");
      wire.send("40/custom");
      assert.match(await wire.nextPacket(), /^40\/custom,/);
      assert.equal(await wire.nextPacket(), '42/custom,["auth",{}]');
      wire.send("41/custom");
      wire.send('42["message","message to main namespace"]');
      assert.equal(await wire.nextPacket(), '42["message-back","message to main namespace"]');
      wire.close();
    });
  });

  describe("message", () => {
    const attachments = [Buffer.from([1, 2, 3]), Buffer.from([4, 5, 6])];
    const placeholders = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}';

    async function assertAnswer(packets, answers) {
      const wire = await join();
      packets.forEach((p) => wire.send(p));
      for (const answer of answers) {
        assert.deepEqual(await wire.nextPacket(), answer);
      }
      wire.close();
    }

    it("should send a plain-text packet", options, () =>
      assertAnswer(['42["message",1,"2",{"3":[true]}]'], ['42["message-back",1,"2",{"3":[true]}]']));

    it("should send a packet with binary attachments", options, () =>
      assertAnswer(
        [`452-["message",${placeholders}]`, ...attachments],
        [`452-["message-back",${placeholders}]`, ...attachments],
      ));

    it("should send a plain-text packet with an ack", options, () =>
      assertAnswer(['42456["message-with-ack",1,"2",{"3":[false]}]'], ['43456[1,"2",{"3":[false]}]']));

    it("should send a packet with binary attachments and an ack", options, () =>
      assertAnswer(
        [`452-789["message-with-ack",${placeholders}]`, ...attachments],
        [`462-789[${placeholders}]`, ...attachments],
      ));

    async function assertCloses(packet) {
      const wire = await join();
      wire.send(packet);
      await wire.closed;
    }

    it("should close the connection upon invalid format (unknown packet type)", options, () => assertCloses("4abc"));

    it("should close the connection upon invalid format (invalid payload format)", options, () => assertCloses("42{}"));

    it("should close the connection upon invalid format (invalid ack id)", options, () =>
      assertCloses('42abc["message-with-ack",1,"2",{"3":[false]}]'));
  });
});
