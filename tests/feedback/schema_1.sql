BEGIN TRANSACTION;
CREATE TABLE feedback (
	seq INTEGER NOT NULL, 
	id VARCHAR NOT NULL, 
	task VARCHAR NOT NULL, 
	rater VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	revision INTEGER NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (id), 
	FOREIGN KEY(task) REFERENCES task (id)
);
INSERT INTO "feedback" VALUES(1,'cfcb3e4ea1e1ec98df98','c5103125201830cc4494','anna','comparison',0,'{"task_id":"c5103125201830cc4494","items":["9afc82aaa3c72acf8e86","51dcf83cb3600ab53be9"],"rater":{"id":"anna","kind":"person"},"answer":{"kind":"comparison","verdict":"first","first_wins":null,"margin":1.0},"revision":0,"made_at":"2025-01-02T03:04:05Z","seconds":null,"confidence":null,"note":""}');
INSERT INTO "feedback" VALUES(2,'59e861ebe4de25f8a301','c5103125201830cc4494','ben','comparison',0,'{"task_id":"c5103125201830cc4494","items":["9afc82aaa3c72acf8e86","51dcf83cb3600ab53be9"],"rater":{"id":"ben","kind":"person"},"answer":{"kind":"comparison","verdict":"tie","first_wins":null,"margin":1.0},"revision":0,"made_at":"2025-01-02T03:04:05Z","seconds":null,"confidence":null,"note":""}');
INSERT INTO "feedback" VALUES(3,'6137823a7fd0a42fa382','c5103125201830cc4494','anna','comparison',1,'{"task_id":"c5103125201830cc4494","items":["9afc82aaa3c72acf8e86","51dcf83cb3600ab53be9"],"rater":{"id":"anna","kind":"person"},"answer":{"kind":"comparison","verdict":"second","first_wins":null,"margin":1.0},"revision":1,"made_at":"2025-01-02T03:04:05Z","seconds":null,"confidence":null,"note":""}');
CREATE TABLE item (
	id VARCHAR NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "item" VALUES('9afc82aaa3c72acf8e86','{"prompt":"q","completion":"a","source":"","cut":false}');
INSERT INTO "item" VALUES('51dcf83cb3600ab53be9','{"prompt":"q","completion":"b","source":"","cut":false}');
CREATE TABLE meta (
	"key" VARCHAR NOT NULL, 
	value VARCHAR, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema','1');
CREATE TABLE task (
	seq INTEGER NOT NULL, 
	id VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (id)
);
INSERT INTO "task" VALUES(1,'c5103125201830cc4494','comparison','{"kind":"comparison","prompt":"q","items":["9afc82aaa3c72acf8e86","51dcf83cb3600ab53be9"]}');
CREATE INDEX ix_task_kind ON task (kind);
CREATE INDEX ix_feedback_task ON feedback (task);
CREATE INDEX ix_feedback_kind ON feedback (kind);
CREATE INDEX ix_feedback_rater ON feedback (rater);
CREATE TRIGGER item_no_update BEFORE UPDATE ON item BEGIN SELECT RAISE(ABORT, 'item is append-only'); END;
CREATE TRIGGER item_no_delete BEFORE DELETE ON item BEGIN SELECT RAISE(ABORT, 'item is append-only'); END;
CREATE TRIGGER task_no_update BEFORE UPDATE ON task BEGIN SELECT RAISE(ABORT, 'task is append-only'); END;
CREATE TRIGGER task_no_delete BEFORE DELETE ON task BEGIN SELECT RAISE(ABORT, 'task is append-only'); END;
CREATE TRIGGER feedback_no_update BEFORE UPDATE ON feedback BEGIN SELECT RAISE(ABORT, 'feedback is append-only'); END;
CREATE TRIGGER feedback_no_delete BEFORE DELETE ON feedback BEGIN SELECT RAISE(ABORT, 'feedback is append-only'); END;
COMMIT;
