"use strict";
(() => {
  // ---- sortable tables -------------------------------------------------------------------------
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.key === undefined ? cell.textContent.trim() : Number(cell.dataset.key);
  };
  // Numbers before words, so that an outcome in the place of a time never sorts among the times.
  const compare = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  };
  const sortBy = (table, head, column) => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => (descending ? -1 : 1) * compare(keyOf(a, column), keyOf(b, column)));
    table.tBodies[0].append(...rows);
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => sortBy(table, head, column));
      head.replaceChildren(button);
    });
  }

  // ---- before/after viewers --------------------------------------------------------------------
  const LARGEST_ZOOM = 8;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  const bring = (viewer) => {
    const panes = viewer.querySelector(".panes");
    const divider = viewer.querySelector(".divider");
    const range = viewer.querySelector("input[type=range]");
    const readout = viewer.querySelector("output");
    const views = [...viewer.querySelectorAll("[data-view]")];
    const state = { cut: 50, zoom: 1, x: 0, y: 0, shown: "compare" };

    const draw = () => {
      const box = panes.getBoundingClientRect();
      state.x = clamp(state.x, box.width * (1 - state.zoom), 0);
      state.y = clamp(state.y, box.height * (1 - state.zoom), 0);
      panes.style.setProperty("--cut", `${state.cut}%`);
      panes.style.setProperty("--zoom", state.zoom);
      panes.style.setProperty("--x", `${state.x}px`);
      panes.style.setProperty("--y", `${state.y}px`);
      panes.classList.toggle("zoomed", state.zoom > 1);
      panes.dataset.shown = state.shown;
      range.value = state.cut;
      range.setAttribute("aria-valuetext", `divider at ${Math.round(state.cut)} per cent`);
      readout.textContent = `${state.zoom}×`;
      for (const view of views) {
        view.setAttribute("aria-pressed", String(view.dataset.view === state.shown));
      }
    };
    const show = (what) => {
      state.shown = what;
      draw();
    };
    const cutAt = (clientX) => {
      const box = panes.getBoundingClientRect();
      state.cut = clamp((100 * (clientX - box.left)) / box.width, 0, 100);
      draw();
    };
    // The middle of the view stays where it is.
    const zoomTo = (zoom) => {
      const box = panes.getBoundingClientRect();
      const next = clamp(zoom, 1, LARGEST_ZOOM);
      state.x = box.width / 2 - ((box.width / 2 - state.x) * next) / state.zoom;
      state.y = box.height / 2 - ((box.height / 2 - state.y) * next) / state.zoom;
      state.zoom = next;
      draw();
    };
    const pan = (dx, dy) => {
      state.x += dx;
      state.y += dy;
      draw();
    };
    const zoomActions = {
      in: () => zoomTo(state.zoom * 2),
      out: () => zoomTo(state.zoom / 2),
      reset: () => {
        Object.assign(state, { cut: 50, zoom: 1, x: 0, y: 0, shown: "compare" });
        draw();
      },
    };

    range.addEventListener("input", () => {
      state.cut = Number(range.value);
      state.shown = "compare";
      draw();
    });
    for (const view of views) view.addEventListener("click", () => show(view.dataset.view));
    for (const button of viewer.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", zoomActions[button.dataset.zoom]);
    }

    // Dragging moves the divider; on a zoomed picture, away from the divider, it pans.
    let drag = null;
    panes.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      const onDivider = event.target === divider;
      const panning = !onDivider && (state.zoom > 1 || state.shown !== "compare");
      drag = { panning, x: event.clientX, y: event.clientY };
      panes.setPointerCapture(event.pointerId);
      if (!panning) cutAt(event.clientX);
    });
    panes.addEventListener("pointermove", (event) => {
      if (drag === null) return;
      if (drag.panning) {
        pan(event.clientX - drag.x, event.clientY - drag.y);
        Object.assign(drag, { x: event.clientX, y: event.clientY });
      } else {
        cutAt(event.clientX);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      panes.addEventListener(end, () => {
        drag = null;
      });
    }

    const keys = {
      "+": zoomActions.in,
      "=": zoomActions.in,
      "-": zoomActions.out,
      0: zoomActions.reset,
      d: () => show(state.shown === "difference" ? "compare" : "difference"),
    };
    const pans = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    viewer.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (keys[event.key]) {
        keys[event.key]();
      } else if (event.target === panes && state.zoom > 1 && pans[event.key]) {
        pan(...pans[event.key]);
      } else {
        return;
      }
      event.preventDefault();
    });

    panes.tabIndex = 0;
    viewer.querySelector(".controls").hidden = false;
    viewer.classList.add("live");
    new ResizeObserver(draw).observe(panes);
    draw();
  };
  for (const viewer of document.querySelectorAll("[data-viewer]")) bring(viewer);
  for (const hint of document.querySelectorAll(".needs-script")) hint.hidden = false;
})();
