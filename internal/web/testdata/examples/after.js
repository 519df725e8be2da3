// And after them.
socket.on("message:new", (message) => console.log(`message: ${message.content}`));
socket.on("connected", ({ resumed }) => console.log(`connected: ${resumed}`));
socket.on("sync:complete", ({ replayed }) => console.log(`live: ${replayed} events caught up`));
socket.on("disconnect", (reason) => console.log(`disconnect: ${reason}`));
