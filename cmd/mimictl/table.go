package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// column is a column of a table: its heading, and the path of its value in an item.
type column struct{ heading, path string }

// columnsOf reads columns from a text of the form "HEADING path HEADING path".
func columnsOf(text string) (columns []column) {
	words := strings.Fields(text)
	for i := 0; i+1 < len(words); i += 2 {
		columns = append(columns, column{words[i], words[i+1]})
	}
	return columns
}

// writeTable writes items in aligned columns. An absent value is -.
func writeTable(w io.Writer, columns []column, items []json.RawMessage) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, c := range columns {
		fmt.Fprint(table, c.heading, separator(i, len(columns)))
	}
	for _, raw := range items {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		var item any
		if err := dec.Decode(&item); err != nil {
			return err
		}
		for i, c := range columns {
			fmt.Fprint(table, cell(c.path, item), separator(i, len(columns)))
		}
	}
	return table.Flush()
}

func separator(i, n int) string {
	if i == n-1 {
		return "\n"
	}
	return "\t"
}

// cell returns the value at a path as text that is safe for a terminal.
func cell(path string, item any) string {
	name, rest, deeper := strings.Cut(path, ".")
	switch v := item.(type) {
	case map[string]any:
		value, ok := v[name]
		if !ok {
			return "-"
		}
		if deeper {
			return cell(rest, value)
		}
		return leafCell(name, value)
	case []any:
		var parts []string
		for _, value := range v {
			parts = append(parts, cell(path, value))
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	}
	return "-"
}

func leafCell(name string, value any) string {
	if values, ok := value.([]any); ok {
		var parts []string
		for _, v := range values {
			parts = append(parts, leafCell(name, v))
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	}
	return named(name, value)
}

// named writes a value with a name. A number whose name says that it is a time is one in milliseconds since 1970.
func named(name string, value any) string {
	if n, ok := value.(json.Number); ok && isTime(name) {
		if ms, err := n.Int64(); err == nil {
			return time.UnixMilli(ms).UTC().Format(time.RFC3339)
		}
	}
	return scalar(value)
}

// isTime reports whether a field of this name has a time.
func isTime(name string) bool {
	return name == "at" || name == "since" || name == "decide_by" || strings.HasSuffix(name, "_at")
}
