package main

// A row compares two figures of one run.
type row struct {
	name, compares string
	before, after  figure
	goal           goal // for the ratio of after to before
}

// A figure is a metric of a benchmark.
type figure struct {
	benchmark string // with its package: "hooks BenchmarkNATSLost/reader=feed"
	unit      string
}

// A goal bounds a ratio on one side.
type goal struct{ atLeast, atMost float64 } // 0 is no bound

// rows is the table. Each row needs both of its benchmarks in one run.
var rows = []row{
	{
		"the database vanishes", "the first answer without deadlines (the wait ends after 20 s), and with them",
		figure{"storage/postgres BenchmarkVanish/deadlines=false", "s"},
		figure{"storage/postgres BenchmarkVanish/deadlines=true", "s"},
		goal{atMost: 0.5},
	},
	{
		"a pooler by transaction", "locks that 100 claims leave behind, and where the pooler is refused",
		figure{"storage/postgres BenchmarkPooler/refused=false", "locks"},
		figure{"storage/postgres BenchmarkPooler/refused=true", "locks"},
		goal{atMost: 0.01},
	},
	{
		"a NATS server is lost", "events of 100 that Dendrite's helper misses, and the module's reader",
		figure{"hooks BenchmarkNATSLost/reader=helper", "missed"},
		figure{"hooks BenchmarkNATSLost/reader=feed", "missed"},
		goal{atMost: 0.01},
	},
	{
		"SQLite forgets", "how much longer a write takes meanwhile: 1,000 rows at once, and 100 and a rest",
		figure{"storage/internal/sqlstore BenchmarkForget/AtOnce=1000", "times"},
		figure{"storage/internal/sqlstore BenchmarkForget/AtOnce=100", "times"},
		goal{atMost: 0.5},
	},
	{
		"a synchronous standby", "a transaction of one row without it, and with it",
		figure{"storage/postgres BenchmarkStandby/standby=false", "p50-ms"},
		figure{"storage/postgres BenchmarkStandby/standby=true", "p50-ms"},
		goal{atMost: 5},
	},
	{
		"three NATS servers", "an event acknowledged by one, and by three",
		figure{"hooks BenchmarkPublish/servers=1", "ms"}, figure{"hooks BenchmarkPublish/servers=3", "ms"},
		goal{atMost: 50},
	},
	{
		"a group of 10,000 comes", "to verify a member by single signatures, and in batches",
		figure{"mimiport/mls BenchmarkImport/members=10000/cores=1/single", "µs/member"},
		figure{"mimiport/mls BenchmarkImport/members=10000/cores=1/batched", "µs/member"},
		goal{atMost: 0.7},
	},
	{
		"a group of 10,000 moves", "an import by single signatures, and a move to the first Commit at the target",
		figure{"integration BenchmarkMove/members=10000", "import-s"},
		figure{"integration BenchmarkMove/members=10000", "move-s"},
		goal{atMost: 1.3},
	},
	{
		"a group of 50,000 moves", "the same",
		figure{"integration BenchmarkMove/members=50000", "import-s"},
		figure{"integration BenchmarkMove/members=50000", "move-s"},
		goal{atMost: 1.3},
	},
	{
		"small groups move", "processor time: a move in a shared room + a bare event, a move in its own room",
		figure{"integration BenchmarkDrain", "floor-ms"}, figure{"integration BenchmarkDrain", "own-ms"},
		goal{atMost: 1.5},
	},
	{
		"their pace", "in a second: bare events of the homeserver, and moves in their own rooms",
		figure{"integration BenchmarkDrain", "events/s"}, figure{"integration BenchmarkDrain", "own/s"},
		goal{atLeast: 0.7},
	},
	{
		"a server 200 ms away", "messages of a group to it: one in a request, and in batches",
		figure{"mimiport/outbox BenchmarkLink/way=one", "messages/s"},
		figure{"mimiport/outbox BenchmarkLink/way=batch", "messages/s"},
		goal{atLeast: 50},
	},
	{
		"1,000 servers, SQLite", "bytes written for a message: a row for each server, and one for all",
		figure{"mimiport/outbox BenchmarkWritten/sqlite/way=one", "B/message"},
		figure{"mimiport/outbox BenchmarkWritten/sqlite/way=batch", "B/message"},
		goal{atMost: 0.1},
	},
	{
		"1,000 servers, PostgreSQL", "bytes written for a message: a row for each server, and one for all",
		figure{"mimiport/outbox BenchmarkWritten/postgres/way=one", "B/message"},
		figure{"mimiport/outbox BenchmarkWritten/postgres/way=batch", "B/message"},
		goal{atMost: 0.1},
	},
	{
		"a message, SQLite", "until it is accepted: to ten servers, and to 1,000",
		figure{"mimiport/outbox BenchmarkSubmit/servers=10/sqlite/way=batch", "p50-ms"},
		figure{"mimiport/outbox BenchmarkSubmit/servers=1000/sqlite/way=batch", "p50-ms"},
		goal{atMost: 2},
	},
	{
		"a message, PostgreSQL", "until it is accepted: to ten servers, and to 1,000",
		figure{"mimiport/outbox BenchmarkSubmit/servers=10/postgres/way=batch", "p50-ms"},
		figure{"mimiport/outbox BenchmarkSubmit/servers=1000/postgres/way=batch", "p50-ms"},
		goal{atMost: 2},
	},
	{
		"100 servers not well", "deliveries to 900 others: one in a request, and in batches",
		figure{"mimiport/outbox BenchmarkUnwell/unwell=50/way=one", "deliveries/s"},
		figure{"mimiport/outbox BenchmarkUnwell/unwell=50/way=batch", "deliveries/s"},
		goal{atLeast: 2},
	},
	{
		"facts kept, room of 2", "processor time of a message that asks for the room's facts, and with kept facts",
		figure{"hooks BenchmarkMessage", "µs-asked-2"}, figure{"hooks BenchmarkMessage", "µs-kept-2"},
		goal{atMost: 0.6},
	},
	{
		"facts kept, room of 300", "the same in a room of 300",
		figure{"hooks BenchmarkMessage", "µs-asked-300"}, figure{"hooks BenchmarkMessage", "µs-kept-300"},
		goal{atMost: 0.5},
	},
	{
		"the size of a room", "processor time of a message in a room of 2, and in one of 300",
		figure{"hooks BenchmarkMessage", "µs-kept-2"}, figure{"hooks BenchmarkMessage", "µs-kept-300"},
		goal{atMost: 1.3},
	},
	{
		"a user leaves a room", "news in a room of 10,000 groups: a row for each group, and one for the room",
		figure{"mimiport/delivery BenchmarkLeave/sqlite", "µs-by-group"},
		figure{"mimiport/delivery BenchmarkLeave/sqlite", "µs-by-room"},
		goal{atMost: 0.02},
	},
	{
		"beside a sweep", "a message to an own device: alone, and while 5,000 groups of a room are checked",
		figure{"mimiport/delivery BenchmarkBesideSweep/sqlite", "ms-alone"},
		figure{"mimiport/delivery BenchmarkBesideSweep/sqlite", "ms-beside"},
		goal{atMost: 3},
	},
	{
		"a server of many groups", "to reserve an id at a server of one group, and of 10,000",
		figure{"storage/sqlite BenchmarkStore/Reserve", "µs-at-1"},
		figure{"storage/sqlite BenchmarkStore/Reserve", "µs-at-10000"},
		goal{atMost: 2},
	},
}
