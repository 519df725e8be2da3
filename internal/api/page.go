package api

import (
	"encoding/base64"
	"strconv"

	"roombell/internal/inbox"
)

// Paging is the two parameters of every list.
type Paging struct {
	Cursor string `query:"cursor" doc:"nextCursor of the page before; empty: the first page" maxLength:"200"`
	Limit  int    `query:"limit" default:"50" minimum:"1" maximum:"200" doc:"Items of a page"`
}

// List is a page of items, newest first. NextCursor is null on the last one.
type List[T any] struct {
	Items      []T     `json:"items" nullable:"false" doc:"Newest first"`
	NextCursor *string `json:"nextCursor" doc:"Give it as cursor to get the next page; null: there is none"`
}

// page reads the cursor of a list that is ordered by descending ids: what comes while one pages through it is above the first page, and moves nothing.
func (p Paging) page() (inbox.Page, error) {
	page := inbox.Page{Limit: p.Limit}
	if p.Cursor == "" {
		return page, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err == nil {
		page.After, err = strconv.ParseInt(string(text), 10, 64)
	}
	if err != nil || page.After <= 0 {
		return page, refuse("validation_failed", "The cursor is none of ours.", Field{Field: "query.cursor", Message: "not a nextCursor"})
	}
	return page, nil
}

// listOf is the page of items that were read with page.Limit + 1: the one too many says that there is a next page.
func listOf[S, T any](page inbox.Page, found []S, id func(S) int64, shape func(S) T) List[T] {
	l := List[T]{Items: []T{}}
	for i, s := range found {
		if i == page.Limit {
			next := base64.RawURLEncoding.EncodeToString(strconv.AppendInt(nil, id(found[i-1]), 10))
			l.NextCursor = &next
			break
		}
		l.Items = append(l.Items, shape(s))
	}
	return l
}
