// A server that stops: clients come back to the one that takes its place.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, chat, control, organization, sql } from "./client.js";

test("clients of a server that stops come back by themselves", async (t) => {
  const { id, users: [user] } = await organization("employee");
  const chatId = await chat(id);
  const clients = [];
  for (const transports of [["websocket"], ["polling"], ["polling", "websocket"]]) {
    for (let i = 0; i < 5; i++) clients.push(await Client.live(t, user, { transports }));
  }
  await control("/drain");
  for (const c of clients) {
    assert.notEqual(await c.next("disconnect"), "io server disconnect");
    await c.next("connected");
  }
  await sql`INSERT INTO messages (chat_id, content) VALUES (${chatId}, 'after')`;
  for (const c of clients) assert.equal((await c.next("message:new")).content, "after");
});
