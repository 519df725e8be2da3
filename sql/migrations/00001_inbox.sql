-- +goose Up

-- Tables of the inbox. Every reference inside an organization is a composite foreign key that carries organization_id,
-- so that no row can point into another organization, whoever writes it.

CREATE TABLE organizations (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text NOT NULL CHECK (name <> ''),
  created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE organizations IS 'Tenants. Nothing of one is ever heard, seen or pointed at by another.';

CREATE TABLE users (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id bigint NOT NULL REFERENCES organizations ON DELETE CASCADE,
  email           text NOT NULL CHECK (email <> ''),
  name            text NOT NULL DEFAULT '',
  role            text NOT NULL DEFAULT 'employee' CHECK (role IN ('employee', 'manager', 'admin')),
  active          boolean NOT NULL DEFAULT true,
  password_hash   text,
  created_at      timestamptz NOT NULL DEFAULT now(),
  UNIQUE (organization_id, id)
);
CREATE UNIQUE INDEX users_email ON users (lower(email));
CREATE INDEX users_admins ON users (organization_id) WHERE role = 'admin';
COMMENT ON TABLE users IS 'Operators. email is unique in any case; password_hash is a PHC string (argon2id).';

CREATE TABLE channels (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id bigint NOT NULL REFERENCES organizations ON DELETE CASCADE,
  provider        text NOT NULL CHECK (provider IN ('whatsapp', 'waba', 'telegram', 'none')),
  name            text NOT NULL DEFAULT '',
  status          text NOT NULL DEFAULT 'disconnected',
  external_id     text,
  created_at      timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now(),
  UNIQUE (organization_id, id)
);
COMMENT ON TABLE channels IS 'Accounts through which chats come in: a Telegram bot, a WhatsApp phone, a WABA number.';

CREATE SEQUENCE chats_ticket_number_seq;

CREATE TABLE chats (
  id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id  bigint NOT NULL REFERENCES organizations ON DELETE CASCADE,
  channel_id       bigint,
  channel          text NOT NULL DEFAULT 'none' CHECK (channel IN ('whatsapp', 'telegram', 'none')),
  name             text,
  external_id      text,
  status           text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'open', 'in_progress', 'pending', 'resolved', 'closed')),
  priority         text NOT NULL DEFAULT 'normal' CHECK (priority IN ('low', 'normal', 'high', 'urgent')),
  assigned_user_id bigint,
  restricted       boolean NOT NULL DEFAULT false,
  unread_count     integer NOT NULL DEFAULT 0,
  last_message_at  timestamptz,
  ticket_number    bigint NOT NULL DEFAULT nextval('chats_ticket_number_seq'),
  tags             text[] NOT NULL DEFAULT '{}',
  created_at       timestamptz NOT NULL DEFAULT now(),
  updated_at       timestamptz NOT NULL DEFAULT now(),
  UNIQUE (organization_id, id),
  FOREIGN KEY (organization_id, channel_id) REFERENCES channels (organization_id, id) ON DELETE SET NULL (channel_id),
  FOREIGN KEY (organization_id, assigned_user_id) REFERENCES users (organization_id, id) ON DELETE SET NULL (assigned_user_id)
);
ALTER SEQUENCE chats_ticket_number_seq OWNED BY chats.ticket_number;
CREATE INDEX chats_channel ON chats (channel_id) WHERE channel_id IS NOT NULL;
CREATE INDEX chats_assigned ON chats (assigned_user_id) WHERE assigned_user_id IS NOT NULL;
CREATE INDEX chats_restricted ON chats (organization_id, id) WHERE restricted;
COMMENT ON TABLE chats IS 'Conversations. unread_count and last_message_at are kept by Roombell within a second of the write; ticket_number may have gaps.';
COMMENT ON COLUMN chats.restricted IS 'Seen only by its members (chat_members), its assignee and the organization''s admins.';

CREATE TABLE chat_members (
  chat_id         bigint NOT NULL,
  user_id         bigint NOT NULL,
  organization_id bigint NOT NULL,
  PRIMARY KEY (chat_id, user_id),
  FOREIGN KEY (organization_id, chat_id) REFERENCES chats (organization_id, id) ON DELETE CASCADE,
  FOREIGN KEY (organization_id, user_id) REFERENCES users (organization_id, id) ON DELETE CASCADE
);
CREATE INDEX chat_members_user ON chat_members (user_id);
COMMENT ON TABLE chat_members IS 'Who sees a restricted chat, beside its assignee and admins. organization_id is filled from the chat.';

CREATE TABLE messages (
  id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id     bigint NOT NULL,
  chat_id             bigint NOT NULL,
  channel_id          bigint,
  from_me             boolean NOT NULL DEFAULT false,
  sender_user_id      bigint,
  type                text NOT NULL DEFAULT 'text',
  content             text,
  media_url           text,
  filename            text,
  mime_type           text,
  size                bigint,
  status              text NOT NULL DEFAULT 'received'
                      CHECK (status IN ('pending', 'sending', 'sent', 'delivered', 'read', 'failed', 'received')),
  error               text,
  external_id         text,
  quoted_message_id   bigint REFERENCES messages ON DELETE SET NULL,
  quoted_content      text,
  is_read_by_operator boolean NOT NULL DEFAULT false,
  read_at             timestamptz,
  read_by_user_id     bigint,
  idempotency_key     text,
  timestamp           timestamptz NOT NULL DEFAULT now(),
  created_at          timestamptz NOT NULL DEFAULT now(),
  updated_at          timestamptz NOT NULL DEFAULT now(),
  FOREIGN KEY (organization_id, chat_id) REFERENCES chats (organization_id, id) ON DELETE CASCADE,
  FOREIGN KEY (organization_id, channel_id) REFERENCES channels (organization_id, id) ON DELETE SET NULL (channel_id),
  FOREIGN KEY (organization_id, sender_user_id) REFERENCES users (organization_id, id) ON DELETE SET NULL (sender_user_id),
  FOREIGN KEY (organization_id, read_by_user_id) REFERENCES users (organization_id, id) ON DELETE SET NULL (read_by_user_id)
);
-- One index for the chat's page, for last_message_at, and for the cascade from chats.
CREATE INDEX messages_chat ON messages (chat_id, timestamp DESC, id DESC);
-- What is unread in a chat: unread_count and messages:read are counts over this index alone.
CREATE INDEX messages_unread ON messages (chat_id) WHERE NOT from_me AND NOT is_read_by_operator;
CREATE UNIQUE INDEX messages_external ON messages (channel_id, external_id) WHERE external_id IS NOT NULL;
-- For ON DELETE SET NULL: without them the deletion of one user or message reads the whole table.
CREATE INDEX messages_quoted ON messages (quoted_message_id) WHERE quoted_message_id IS NOT NULL;
CREATE INDEX messages_sender ON messages (sender_user_id) WHERE sender_user_id IS NOT NULL;
CREATE INDEX messages_read_by ON messages (read_by_user_id) WHERE read_by_user_id IS NOT NULL;
COMMENT ON TABLE messages IS 'Messages of chats. organization_id may be left out: it is filled from the chat. A row with from_me and status pending is the order to send it.';
COMMENT ON COLUMN messages.is_read_by_operator IS 'The read mark of incoming messages.';
COMMENT ON COLUMN messages.status IS 'pending < sending < sent < delivered < read; failed ends pending, sending and sent; received (incoming) never changes. Never goes backwards.';

CREATE TABLE notifications (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id bigint NOT NULL,
  user_id         bigint NOT NULL,
  type            text NOT NULL DEFAULT 'info',
  message         text NOT NULL DEFAULT '',
  data            jsonb NOT NULL DEFAULT '{}',
  read_at         timestamptz,
  created_at      timestamptz NOT NULL DEFAULT now(),
  FOREIGN KEY (organization_id, user_id) REFERENCES users (organization_id, id) ON DELETE CASCADE
);
CREATE INDEX notifications_user ON notifications (user_id, created_at DESC, id DESC);
COMMENT ON TABLE notifications IS 'Personal notices. organization_id is filled from the user.';

-- +goose Down
DROP TABLE notifications, messages, chat_members, chats, channels, users, organizations;
