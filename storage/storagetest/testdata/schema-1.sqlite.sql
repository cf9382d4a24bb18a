PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE mimiport_schema_version (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	);
INSERT INTO mimiport_schema_version VALUES(1,0,1,'2026-11-23 08:00:40');
INSERT INTO mimiport_schema_version VALUES(2,1,1,'2026-11-23 08:00:40');
CREATE TABLE mimiport_groups (
	group_id     BYTEA  NOT NULL,
	term         BIGINT NOT NULL,
	created_at   BIGINT NOT NULL,
	version      BIGINT NOT NULL,
	state        TEXT   NOT NULL,
	server       TEXT   NOT NULL,
	room_id      TEXT   NOT NULL,
	creator      TEXT   NOT NULL,
	protocol     TEXT   NOT NULL,
	cipher_suite BIGINT NOT NULL,
	epoch        BIGINT NOT NULL,
	next_seq     BIGINT NOT NULL,
	migration_id BYTEA  NOT NULL,
	lineage      BYTEA  NOT NULL,
	PRIMARY KEY (group_id, term)
);
INSERT INTO mimiport_groups VALUES(X'67726f7570',1,1767225600000,1,'active','a.example','frozen','@creator:a.example','mls10',65535,9223372036854775807,2,X'0000000000000007000000000000000000000000000000000000000000000000',X'0713f136ea316c8f3e274d55012e3bf10d05b5263837187a39593ff0d8838dfa');
CREATE TABLE mimiport_snapshots (
	group_id     BYTEA  NOT NULL,
	term         BIGINT NOT NULL,
	epoch        BIGINT NOT NULL,
	seq          BIGINT NOT NULL,
	group_info   BYTEA  NOT NULL,
	ratchet_tree BYTEA  NOT NULL,
	PRIMARY KEY (group_id, term, epoch)
);
INSERT INTO mimiport_snapshots VALUES(X'67726f7570',1,1,3,X'06271baf49532c879aa3c58b48671884bcc858f09197412d682750496c33e1e1',X'dc9c5edb8b2d479e697b4b0b8ab874f32b325138598ce9e7b759eb8292110622');
CREATE TABLE mimiport_entries (
	group_id     BYTEA  NOT NULL,
	term         BIGINT NOT NULL,
	seq          BIGINT NOT NULL,
	epoch        BIGINT NOT NULL,
	kind         TEXT   NOT NULL,
	sender       TEXT   NOT NULL,
	hash         BYTEA  NOT NULL,
	message      BYTEA  NOT NULL,
	group_info   BYTEA  NOT NULL,
	recipients   BYTEA  NOT NULL, -- of each the user and the device id, as vectors
	migration_id BYTEA,           -- null but for a migration Commit
	accepted_at  BIGINT NOT NULL,
	PRIMARY KEY (group_id, term, seq),
	UNIQUE (group_id, term, hash)
);
INSERT INTO mimiport_entries VALUES(X'67726f7570',1,1,4,'commit','@sender:b.example',X'459246d3518b4ab7bc9c5c23e319b4c2cb476cac9965f517893076dbc1a2be54',X'67726f75700000000000000001',X'06271baf49532c879aa3c58b48671884bcc858f09197412d682750496c33e1e1',X'0c40613a612e6578616d706c6501410c40623a622e6578616d706c6504422000ff',X'0000000000000009000000000000000000000000000000000000000000000000',1767225600001);
CREATE TABLE mimiport_migrations (
	migration_id            BYTEA   NOT NULL PRIMARY KEY,
	created_at              BIGINT  NOT NULL,
	role                    TEXT    NOT NULL,
	state                   TEXT    NOT NULL,
	version                 BIGINT  NOT NULL,
	group_id                BYTEA   NOT NULL,
	room_id                 TEXT    NOT NULL,
	term                    BIGINT  NOT NULL,
	source                  TEXT    NOT NULL,
	target                  TEXT    NOT NULL,
	user_id                 TEXT    NOT NULL,
	by_admin                BOOLEAN NOT NULL,
	epoch                   BIGINT  NOT NULL,
	expires_at              BIGINT  NOT NULL,
	decide_by               BIGINT  NOT NULL,
	commit_hash             BYTEA   NOT NULL,
	content_hash            BYTEA   NOT NULL,
	content_key_id          TEXT    NOT NULL,
	response                BYTEA   NOT NULL,
	response_key_id         TEXT    NOT NULL,
	response_key_object     BYTEA   NOT NULL,
	complete                BYTEA   NOT NULL,
	complete_key_id         TEXT    NOT NULL,
	complete_key_object     BYTEA   NOT NULL,
	confirmation            BYTEA   NOT NULL,
	confirmation_key_id     TEXT    NOT NULL,
	confirmation_key_object BYTEA   NOT NULL,
	abort                   BYTEA   NOT NULL,
	abort_key_id            TEXT    NOT NULL,
	abort_key_object        BYTEA   NOT NULL,
	reason                  TEXT    NOT NULL
);
INSERT INTO mimiport_migrations VALUES(X'0000000000000001000000000000000000000000000000000000000000000000',1767225601000,'source','frozen',1,X'67726f7570','!room:a.example',1,'a.example','b.example','@user:a.example',1,5,1767225660000,1767225601000,X'9505cacb7c710ed17125fcc6cb3669e8ddca6c8cd8af6a31f6b3cd64604c3098',X'ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73','ed25519:content',X'a9f4b3d22a523fdada41c85c175425bcd15b32b4cd0f54d9433accd52d7195a1','ed25519:response',X'f7409495329537f7c0cfe4d50035257c2bbb4eed5b17254474e67a8d36b305f2',X'eebbf6457e46a7f63acdf9b97390f790ba443d60cfa44b607da7e5c40aa1cc1d','ed25519:complete',X'dd2b816465c8c233efa09ee246d9ab3df610ac1f9efc2fe50e71b7bcc412f197',X'93cdccc66f8c7f8e670f513593663b243eb1e219766844ba75472272e01a2d6f','ed25519:confirmation',X'5e2d57b8da4e0d325130add3c8e44eb68d4591e9f1219c6c3f1db7e971859599',X'3a53db8a2c8a17ee3ea667bc146718c004d4446dee670a46d426e563ced7bc2f','ed25519:abort',X'566182865279c461f048021da9f2335c393e409a426a6db23eb85d10d059baa6','frozen');
CREATE TABLE mimiport_contents (
	migration_id BYTEA NOT NULL PRIMARY KEY,
	data         BYTEA NOT NULL
);
INSERT INTO mimiport_contents VALUES(X'0000000000000001000000000000000000000000000000000000000000000000',X'ffb304816a1090313e833215c08dae3d209cfad1ffd1f674f0909a2ae99e1394');
CREATE TABLE mimiport_outbox (
	destination  TEXT   NOT NULL,
	queue        TEXT   NOT NULL,
	row_order    BIGINT NOT NULL,
	kind         TEXT   NOT NULL,
	group_id     BYTEA  NOT NULL,
	term         BIGINT NOT NULL,
	seq          BIGINT NOT NULL,
	migration_id BYTEA  NOT NULL,
	due_at       BIGINT NOT NULL,
	attempts     BIGINT NOT NULL,
	PRIMARY KEY (destination, queue, row_order)
);
INSERT INTO mimiport_outbox VALUES('b.example','frozen',1,'fan-out',X'67726f7570',1,2,X'0000000000000003000000000000000000000000000000000000000000000000',1767225600000,4);
CREATE TABLE mimiport_queues (
	destination TEXT   NOT NULL,
	queue       TEXT   NOT NULL,
	row_order   BIGINT NOT NULL,
	due_at      BIGINT NOT NULL,
	PRIMARY KEY (destination, queue)
);
INSERT INTO mimiport_queues VALUES('b.example','frozen',1,1767225600000);
CREATE TABLE mimiport_evidence (
	group_id     BYTEA  NOT NULL,
	kind         TEXT   NOT NULL,
	migration_id BYTEA  NOT NULL,
	data         BYTEA  NOT NULL,
	key_id       TEXT   NOT NULL,
	found_at     BIGINT NOT NULL,
	PRIMARY KEY (group_id, kind, migration_id)
);
INSERT INTO mimiport_evidence VALUES(X'67726f7570','higher-term',X'0000000000000001000000000000000000000000000000000000000000000000',X'ee8250fb76e094b34b471f13a73dbbe51d1ae142e9df59d7c0d31ec20f0a0a8e','ed25519:e',1767225600000);
CREATE TABLE mimiport_settings (
	name  TEXT  NOT NULL PRIMARY KEY,
	value BYTEA NOT NULL
);
INSERT INTO mimiport_settings VALUES('name',X'7b2261223a317d');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('mimiport_schema_version',2);
CREATE INDEX mimiport_groups_state ON mimiport_groups (state, creator);
CREATE INDEX mimiport_migrations_group ON mimiport_migrations (group_id, commit_hash);
CREATE INDEX mimiport_migrations_user ON mimiport_migrations (user_id, created_at);
CREATE INDEX mimiport_queues_due ON mimiport_queues (due_at, destination, queue, row_order);
COMMIT;
