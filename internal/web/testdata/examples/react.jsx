// What the reader has around the example.
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Chat } from "./Chat.jsx";

const query = new URLSearchParams(location.search);
const { token } = await (await fetch("/token")).json();
createRoot(document.body.appendChild(document.createElement("div"))).render(
  <StrictMode>
    <Chat url={query.get("url")} token={token} chatId={Number(query.get("chat"))} />
  </StrictMode>,
);
