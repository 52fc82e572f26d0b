/* The search of the site runs in a worker, which browsers refuse to start for a page that is opened as a file.
 * There a hidden frame runs the worker's script instead: its global object has the worker's part of the interface. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "search";
      const bridge = "self.postMessage = (data) => parent.postMessage(data, '*');";
      const script = document.createElement("script");
      script.src = new URL(url, location.href).href;
      this.frame.srcdoc = `<script>${bridge}</` + `script>${script.outerHTML}`;
      this.frame.addEventListener("load", () => this.deliver());
      this.receive = (event) => {
        if (event.source !== this.frame.contentWindow) return;
        event.stopImmediatePropagation();
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      };
      window.addEventListener("message", this.receive);
      document.documentElement.append(this.frame);
    }

    deliver() {
      const waiting = this.waiting;
      this.waiting = null;
      for (const data of waiting) this.postMessage(data);
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else Reflect.apply(window.postMessage, this.frame.contentWindow, [data, "*"]); // its own is the bridge
    }

    terminate() {
      window.removeEventListener("message", this.receive);
      this.frame.remove();
    }
  };
}
