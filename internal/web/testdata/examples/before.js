// What the reader has before the three lines.
import { io } from "socket.io-client";

const url = process.env.ROOMBELL_URL;
const fetchToken = async () => (await (await fetch(process.env.TOKEN_URL)).json()).token;
let token = await fetchToken();
