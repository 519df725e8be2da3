// What the reader has around the example.
import { createApp } from "vue";
import Chat from "./Chat.vue";

const query = new URLSearchParams(location.search);
const { token } = await (await fetch("/token")).json();
createApp(Chat, { url: query.get("url"), token, chatId: Number(query.get("chat")) }).mount(
  document.body.appendChild(document.createElement("div")),
);
